// One JavaScript client with one transport, put through the cases, in Node.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import { CASES, Phone, connected, options } from './socketio-cases.js';
import { report } from './count.js';
import { Porter } from './porter.js';

/** What the client is told of its transports. */
export const TRANSPORTS = {
    polling: { transports: ['polling'] },
    websocket: { transports: ['websocket'] },
    upgrade: { transports: ['polling', 'websocket'] },
};

/** Registers the tests of a client: `client` is its name and version. */
export function prove(client, io) {
    for (const [transport, settings] of Object.entries(TRANSPORTS)) {
        const name = `${client}, ${transport}`;
        let passed = 0;
        let porter;
        const env = {
            prefix: transport,
            opened: [],
            open: (query, more) => io(porter.url, options(query, { ...settings, ...more })),
            rest: (...request) => porter.rest(...request),
            tcp: () => porter.tcp(),
            restart: () => porter.restart(),
        };
        const run = (title, act) =>
            test(`${name}: ${title}`, { timeout: 120_000 }, async () => {
                porter ??= await Porter.start();
                try {
                    await act(env, porter);
                } finally {
                    env.opened.splice(0).forEach((phone) => phone.close());
                }
                passed += 1;
            });
        for (const [title, act] of Object.entries(CASES)) run(title, act);
        run('is on the transport that it should be on', async () => {
            const phone = await connected(env, {});
            const expected = transport === 'polling' ? 'polling' : 'websocket';
            const { engine } = phone.socket.io;
            for (let n = 0; engine.transport.name !== expected && n < 3_000; n += 1) await new Promise((done) => setTimeout(done, 10));
            assert.equal(engine.transport.name, expected);
            await phone.settle();
        });
        run('a device token is asked for, holds for its alias, and ends when it is revoked', async () => {
            const strict = await Porter.start(['--auth-devices', 'token']);
            const open = (query) => io(strict.url, options(query, { ...settings, reconnection: false }));
            try {
                await devices({ open, opened: env.opened }, strict);
            } finally {
                await strict.stop();
            }
        });
        after(async () => {
            await porter?.stop();
            report(name, passed);
        });
    }
}

async function devices(env, porter) {
    const token = porter.newToken('--role', 'device', '--label', 'ann', '--alias', 'm_2');
    for (const query of [{}, { alias: 'm_2' }, { token: '0123' }]) {
        const phone = new Phone(env.open(query));
        env.opened.push(phone);
        assert.equal((await phone.next('error')).code, 'bad_token', JSON.stringify(query));
    }
    const other = new Phone(env.open({ alias: 'm_3', token }));
    env.opened.push(other);
    assert.equal((await other.next('error')).code, 'forbidden');
    const phone = await connected(env, { alias: 'm_2', token });
    assert.equal((await phone.both('heartbeat', { alias: 'm_2' })).t, -1);
    porter.revoke('ann');
    assert.equal(typeof (await phone.next('disconnect')), 'string');
}
