// The real server as the clients' tests have it: the built binary on free ports with a folder of its own, killed and started again; and
// the two peers that clients talk to, a controller's TCP link and the management's REST.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const BINARY = process.env.PORTER_BINARY ?? new URL('../../target/release/porter', import.meta.url).pathname;
/** How long anything may take before a test has failed: generous, since machines are shared. */
export const DEADLINE_MS = 30_000;

/** Nothing of this process's settings reaches the server. */
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PORTER_')));

/** A running server. */
export class Porter {
    #child;
    #flags;
    #log = '';
    ports = { tcp: 0, rest: 0, socketio: 0, websocket: 0 };

    static async start(flags = []) {
        const porter = new Porter();
        porter.folder = mkdtempSync(join(tmpdir(), 'porter-clients-'));
        porter.#flags = flags;
        await porter.#spawn();
        porter.token = porter.newToken('--role', 'manage', '--label', 'test');
        return porter;
    }

    async #spawn() {
        const ports = Object.entries(this.ports).flatMap(([name, port]) => [`--${name}-port`, String(port)]);
        const data = ['--data-dir', join(this.folder, 'data')];
        this.#child = spawn(BINARY, ['serve', ...data, ...ports, ...this.#flags], { env: environment, cwd: this.folder });
        this.#child.stderr.on('data', (text) => (this.#log += text));
        const markers = { tcp: 'tcp://', rest: 'management    http://', socketio: 'phones        http://', websocket: 'ws://' };
        const lines = createInterface({ input: this.#child.stdout });
        for await (const line of lines) {
            const known = Object.keys(markers).find((name) => line.includes(markers[name]));
            if (known) {
                this.ports[known] = Number(line.split(markers[known])[1].split('/')[0].split(':').at(-1));
                delete markers[known];
            }
            if (Object.keys(markers).length === 0) {
                this.#child.stdout.resume();
                return;
            }
        }
        throw new Error(`the server did not start: ${this.#log}`);
    }

    /** Where clients connect to. */
    get url() {
        return `http://127.0.0.1:${this.ports.socketio}`;
    }

    get log() {
        return this.#log;
    }

    newToken(...flags) {
        const made = spawnSync(BINARY, ['token', 'new', '--data-dir', join(this.folder, 'data'), ...flags], { env: environment });
        assert.equal(made.status, 0, String(made.stderr));
        return String(made.stdout).trim();
    }

    revoke(label) {
        const done = spawnSync(BINARY, ['token', 'revoke', label, '--data-dir', join(this.folder, 'data')], { env: environment });
        assert.equal(done.status, 0, String(done.stderr));
    }

    /** SIGKILL, and a start on the same folder and ports. */
    async restart() {
        await this.#end('SIGKILL');
        await this.#spawn();
    }

    async #end(signal) {
        if (this.#child.exitCode === null && this.#child.signalCode === null) {
            const ended = new Promise((resolve) => this.#child.once('exit', resolve));
            this.#child.kill(signal);
            await ended;
        }
    }

    async stop(signal = 'SIGKILL') {
        await this.#end(signal);
        rmSync(this.folder, { recursive: true, force: true });
    }

    /** A request of REST; the token is put in its place at the end. */
    rest(method, path, body) {
        return new Promise((resolve, reject) => {
            const options = { method, port: this.ports.rest, host: '127.0.0.1', path: path.replace('TOKEN', this.token), agent: false };
            const request = http.request(options, (answer) => {
                let text = '';
                answer.setEncoding('utf8').on('data', (part) => (text += part));
                answer.on('end', () => resolve({ status: answer.statusCode, text }));
            });
            request.on('error', reject).end(body);
        });
    }

    /** A link of the line protocol. */
    tcp() {
        return new Line(this.ports.tcp);
    }
}

class Line {
    #socket;
    #lines = [];
    #waiting = [];

    constructor(port) {
        this.#socket = net.connect(port, '127.0.0.1').setNoDelay();
        this.#socket.on('error', () => {});
        createInterface({ input: this.#socket }).on('line', (line) => {
            const waiting = this.#waiting.shift();
            if (waiting) waiting(line);
            else this.#lines.push(line);
        });
    }

    send(line) {
        this.#socket.write(`${line}\n`);
    }

    line() {
        if (this.#lines.length > 0) return Promise.resolve(this.#lines.shift());
        return new Promise((resolve, reject) => {
            const timer = setTimeout(() => reject(new Error('no line came over TCP')), DEADLINE_MS);
            this.#waiting.push((line) => (clearTimeout(timer), resolve(line)));
        });
    }

    async lines(count) {
        const lines = [];
        while (lines.length < count) lines.push(await this.line());
        return lines;
    }

    close() {
        this.#socket.destroy();
    }
}

/** Starts a server, as the tests of rooms see it; `flags` are settings. Call `stop` at the end. */
export async function start(...flags) {
    const porter = await Porter.start(flags);
    const { tcp, rest, websocket } = porter.ports;
    return {
        rooms: `ws://127.0.0.1:${websocket}`,
        pictures: `http://127.0.0.1:${websocket}`,
        rest: `http://127.0.0.1:${rest}`,
        tcp: { host: '127.0.0.1', port: tcp },
        token: porter.token,
        log: () => porter.log,
        /** One frame over REST; its answer. */
        push: async (frame) => JSON.parse((await porter.rest('POST', '/push/TOKEN', JSON.stringify(frame))).text),
        info: async (path) => JSON.parse((await porter.rest('GET', `/info${path}/TOKEN`)).text),
        stop: () => porter.stop('SIGTERM'),
    };
}

/** Fails when `promise` takes longer than anything may. */
export function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: nothing within the deadline`)), DEADLINE_MS)));
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Looks again and again until `look` finds something. */
export async function until(look, what) {
    const end = Date.now() + DEADLINE_MS;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`${what}: not within the deadline`);
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
}
