// What runs in the browser's page: the same cases as in Node, one client and transport after the other, each with its result told to
// the page's own server. The peers that a page can't have (TCP, REST, the server's life) are reached through that server.

import { CASES, connected, options } from './socketio-cases.js';

async function call(name, ...args) {
    const answer = await fetch('/call', { method: 'POST', body: JSON.stringify({ name, args }) });
    const { result, error } = await answer.json();
    if (error) throw new Error(error);
    return result;
}

function load(script) {
    return new Promise((resolve, reject) => {
        delete window.io;
        const element = document.createElement('script');
        element.src = script;
        element.onload = () => resolve(window.io);
        element.onerror = () => reject(new Error(`no ${script}`));
        document.head.append(element);
    });
}

async function tcp() {
    const id = await call('tcp.open');
    return {
        send: (line) => call('tcp.send', id, line),
        line: () => call('tcp.line', id),
        lines: (count) => call('tcp.lines', id, count),
        close: () => call('tcp.close', id),
    };
}

const TRANSPORTS = {
    polling: [{ transports: ['polling'] }, 'polling'],
    websocket: [{ transports: ['websocket'] }, 'websocket'],
    upgrade: [{ transports: ['polling', 'websocket'] }, 'websocket'],
    JSONP: [{ transports: ['polling'], jsonp: true, forceJSONP: true }, 'polling'],
};

/** All cases of one client with one transport; `says` is told of each. */
async function prove({ client, script, transport, url }) {
    const io = await load(script);
    const [settings, expected] = TRANSPORTS[transport];
    const env = {
        prefix: `${client}-${transport}`,
        opened: [],
        open: (query, more) => io(url, options(query, { ...settings, ...more })),
        rest: (...request) => call('rest', ...request),
        tcp,
        restart: () => call('restart'),
    };
    // A browser opens six connections to a server, so nine polls at once can't wait.
    const cases = Object.entries(CASES).filter(([title]) => expected === 'websocket' || !title.startsWith('the ninth session'));
    cases.push(['is on the transport that it should be on', async () => {
        const phone = await connected(env, {});
        for (let n = 0; phone.socket.io.engine.transport.name !== expected && n < 3_000; n += 1) await new Promise((done) => setTimeout(done, 10));
        const { transport: used } = phone.socket.io.engine;
        if (used.name !== expected) throw new Error(`it is on ${used.name}`);
        if (transport === 'JSONP' && !used.script && !('callbacks' in used)) throw new Error('it does not use JSONP');
        await phone.settle();
    }]);
    for (const [title, act] of cases) {
        let error;
        try {
            await act(env);
        } catch (thrown) {
            error = String(thrown.stack ?? thrown);
        }
        env.opened.splice(0).forEach((phone) => phone.close());
        await call('result', `${client}, ${transport}`, title, error);
    }
}

/** A page from elsewhere is told that it may not. */
async function refused({ script, url }) {
    const io = await load(script);
    for (const [transport, [settings]] of Object.entries(TRANSPORTS)) {
        const socket = io(url, options({}, { ...settings, reconnection: false }));
        const event = await new Promise((resolve) => {
            socket.on('connect', () => resolve('connect'));
            socket.on('connect_error', () => resolve('connect_error'));
        });
        socket.close();
        await call('result', 'elsewhere', transport, event === 'connect_error' ? undefined : `it got ${event}`);
    }
}

const jobs = await call('jobs', location.hostname);
for (const job of jobs) await (job.refused ? refused(job) : prove(job));
await call('done');
