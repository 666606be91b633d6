// Many clients of socket.io-client 2.5.0 at once: what one alone never shows.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import io from 'socket.io-client';

import { options } from './socketio-cases.js';
import { report } from './count.js';
import { DEADLINE_MS, Porter } from './porter.js';
import { TRANSPORTS } from './socketio.js';

const CROWD = 500;
let passed = 0;

/** Registers a test that has a server of its own and closes its clients. */
function run(title, act) {
    test(`crowd: ${title}`, { timeout: 120_000 }, async () => {
        const porter = await Porter.start();
        const sockets = [];
        try {
            await act(porter, (query, more) => {
                const socket = io(porter.url, options(query, more));
                sockets.push(socket);
                return socket;
            });
            passed += 1;
        } finally {
            sockets.forEach((socket) => socket.disconnect());
            await porter.stop();
        }
    });
}

/** Until all of them have done it. */
async function all(what, sockets, done) {
    const end = Date.now() + 2 * DEADLINE_MS;
    for (;;) {
        const left = sockets.filter((socket) => !done(socket)).length;
        if (left === 0) return;
        assert.ok(Date.now() < end, `${left} of ${sockets.length} never ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}

const names = Array.from({ length: CROWD }, (_, n) => `m_${n}`);
const push = (porter, alias, msg) => porter.rest('POST', '/push/TOKEN', JSON.stringify({ t: 6, method: 'publish_to_alias', alias, msg }));

run(`${CROWD} clients come back at once after the server was killed, and nothing is lost`, async (porter, open) => {
    const kinds = Object.values(TRANSPORTS);
    const sockets = names.map((alias, n) => {
        const socket = open({ alias }, { ...kinds[n % kinds.length], randomizationFactor: 0 });
        socket.got = new Set();
        socket.on('push', ({ mid, msg }) => {
            socket.got.add(msg);
            // The one before the kill is not acknowledged, so it is owed.
            if (msg !== 'owed') socket.emit('push_c', { mid });
        });
        return socket;
    });
    await all('connected', sockets, (socket) => socket.connected);
    await push(porter, names, 'owed');
    await all('got the first message', sockets, (socket) => socket.got.has('owed'));
    sockets.forEach((socket) => socket.got.clear());
    await porter.restart();
    await all('got again what is owed', sockets, (socket) => socket.connected && socket.got.has('owed'));
    await push(porter, names, 'after');
    await all('got what came after', sockets, (socket) => socket.got.has('after'));
});

run(`${CROWD} upgrades under a running push lose, double and reorder nothing`, async (porter, open) => {
    const total = 40;
    const pushing = (async () => {
        for (let n = 0; n < total; n += 1) await push(porter, names, n);
    })();
    const sockets = names.map((alias) => {
        const socket = open({ alias }, TRANSPORTS.upgrade);
        socket.got = [];
        socket.on('push', ({ mid, msg }) => {
            socket.got.push(msg);
            socket.emit('push_c', { mid });
        });
        return socket;
    });
    await all('upgraded', sockets, (socket) => socket.io.engine.transport?.name === 'websocket');
    await pushing;
    await push(porter, names, total);
    await all('got the last message', sockets, (socket) => socket.got.includes(total));
    const expected = Array.from({ length: total + 1 }, (_, n) => n);
    for (const socket of sockets) assert.deepEqual(socket.got, expected);
});

after(() => report('socket.io-client 2.5.0, crowd', passed));
