// socket.io-client in headless Chromium, from a page of another origin than the server's: polling by XHR with preflights, JSONP,
// WebSocket and the upgrade; and from a page that may not.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

import { report } from './count.js';
import { Porter } from './porter.js';

const CHROMIUM = process.env.CHROMIUM ?? 'chromium';
const FLAGS = [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-proxy-server', '--host-resolver-rules=MAP *.test 127.0.0.1',
];
const FILES = {
    '/': ['text/html', '<!doctype html><meta charset="utf-8"><title>clients</title><link rel="icon" href="data:,"><script type="module" src="/socketio-page.js"></script>'],
    '/socketio-page.js': ['text/javascript', readFileSync(new URL('socketio-page.js', import.meta.url))],
    '/socketio-cases.js': ['text/javascript', readFileSync(new URL('socketio-cases.js', import.meta.url))],
    '/2.5.0.js': ['text/javascript', readFileSync(new URL('node_modules/socket.io-client/dist/socket.io.js', import.meta.url))],
    '/1.7.4.js': ['text/javascript', readFileSync(new URL('node_modules/socket.io-client-1/dist/socket.io.js', import.meta.url))],
};

/** The page's own server: its files, and what the page can't do by itself. */
class Site {
    results = [];
    #links = [];

    constructor(porter, jobs) {
        this.porter = porter;
        this.jobs = jobs;
        this.done = new Promise((resolve) => (this.finish = resolve));
        this.calls = {
            jobs: () => this.jobs,
            rest: (...request) => porter.rest(...request),
            restart: () => porter.restart(),
            'tcp.open': () => this.#links.push(porter.tcp()) - 1,
            'tcp.send': (id, line) => this.#links[id].send(line),
            'tcp.line': (id) => this.#links[id].line(),
            'tcp.lines': (id, count) => this.#links[id].lines(count),
            'tcp.close': (id) => this.#links[id].close(),
            result: (...result) => void this.results.push(result),
            done: () => void this.finish(),
        };
    }

    listen() {
        this.server = http.createServer((request, answer) => this.#answer(request, answer));
        return new Promise((resolve) => this.server.listen(0, '127.0.0.1', () => resolve(this.server.address().port)));
    }

    async #answer(request, answer) {
        const file = FILES[request.url];
        if (file) return answer.writeHead(200, { 'Content-Type': file[0] }).end(file[1]);
        let text = '';
        for await (const part of request.setEncoding('utf8')) text += part;
        if (request.url !== '/call') return answer.writeHead(404).end();
        const { name, args } = JSON.parse(text);
        try {
            answer.end(JSON.stringify({ result: await this.calls[name](...args) }));
        } catch (error) {
            answer.end(JSON.stringify({ error: String(error.stack) }));
        }
    }
}

/** Shows the page of `host` until it is done; what it told of. */
async function show(host, porter, jobs) {
    const site = new Site(porter, jobs);
    const port = await site.listen();
    const profile = mkdtempSync(join(tmpdir(), 'porter-chromium-'));
    const page = `http://${host}:${port}/`;
    const chromium = spawn(CHROMIUM, [...FLAGS, `--user-data-dir=${profile}`, page], { detached: true });
    let said = '';
    chromium.stderr.on('data', (text) => (said += text));
    const ended = new Promise((resolve, reject) => chromium.once('exit', resolve).once('error', reject));
    ended.catch(() => {});
    const late = new Promise((resolve) => setTimeout(resolve, 150_000, 'late').unref());
    try {
        const how = await Promise.race([site.done.then(() => 'done'), ended, late]);
        assert.equal(how, 'done', `the page did not come to its end after ${JSON.stringify(site.results.at(-1))}: ${said.slice(-3_000)}`);
    } finally {
        // The whole group: its other processes would go on writing into the profile that is removed.
        if (chromium.exitCode === null && chromium.pid) process.kill(-chromium.pid, 'SIGKILL');
        await ended.catch(() => {});
        site.server.closeAllConnections();
        site.server.close();
        rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
    }
    return site.results;
}

const counts = new Map();

function count(results) {
    const failed = [];
    for (const [client, title, error] of results) {
        if (error) failed.push(`${client}: ${title}: ${error}`);
        else counts.set(client, (counts.get(client) ?? 0) + 1);
    }
    assert.equal(failed.length, 0, failed.join('\n'));
}

const jobs = (url) => [
    ...['polling', 'websocket', 'upgrade', 'JSONP'].map((transport) => ({ client: 'socket.io-client 2.5.0 in Chromium', script: '/2.5.0.js', transport, url })),
    { client: 'socket.io-client 1.7.4 in Chromium', script: '/1.7.4.js', transport: 'JSONP', url },
];

test('a page of another origin', { timeout: 180_000 }, async () => {
    const porter = await Porter.start();
    try {
        count(await show('127.0.0.1', porter, jobs(porter.url.replace('127.0.0.1', 'porter.test'))));
    } finally {
        await porter.stop();
    }
});

test('a page from elsewhere', { timeout: 60_000 }, async () => {
    const porter = await Porter.start();
    try {
        count(await show('elsewhere.test', porter, [{ refused: true, script: '/2.5.0.js', url: porter.url }]));
    } finally {
        await porter.stop();
    }
});

after(() => counts.forEach((passed, client) => report(client === 'elsewhere' ? 'socket.io-client 2.5.0 in Chromium, elsewhere' : client, passed)));
