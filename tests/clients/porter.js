// A real Porter for a test: started on free ports with a data folder of its own, ended with the test.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createInterface } from 'node:readline';

const BINARY = process.env.PORTER_BINARY ?? fileURLToPath(new URL('../../target/release/porter', import.meta.url));
/** How long anything may take before a test has failed: generous, since machines are shared. */
export const DEADLINE = 30_000;

/** Starts a server; `flags` are settings. Call `stop` at the end. */
export async function start(...flags) {
    const folder = mkdtempSync(join(tmpdir(), 'porter-clients-'));
    const data = ['--data-dir', join(folder, 'data')];
    const ports = ['--tcp-port', '0', '--rest-port', '0', '--websocket-port', '0', '--socketio-port', '0'];
    const child = spawn(BINARY, ['serve', ...data, ...ports, ...flags], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
    let log = '';
    child.stderr.on('data', (text) => (log += text));
    const lines = createInterface({ input: child.stdout });
    const found = {};
    await new Promise((resolve, reject) => {
        child.once('exit', () => reject(new Error(`the server did not start: ${log}`)));
        lines.on('line', (line) => {
            const [, scheme, address] = line.match(/(tcp|http|ws):\/\/([^\s/]+)/) ?? [];
            // Behind the management's address comes the phones', which is HTTP as well.
            if (scheme) found[scheme] ??= address;
            if (found.tcp && found.http && found.ws) resolve();
        });
    });
    const token = execFileSync(BINARY, ['token', 'new', ...data, '--role', 'manage', '--label', 'clients'], { encoding: 'utf8' }).trim();
    return {
        rooms: `ws://${found.ws}`,
        pictures: `http://${found.ws}`,
        rest: `http://${found.http}`,
        tcp: { host: found.tcp.split(':')[0], port: Number(found.tcp.split(':')[1]) },
        token,
        log: () => log,
        /** One frame over REST; its answer. */
        push: async (frame) => (await fetch(`http://${found.http}/push/${token}`, { method: 'POST', body: JSON.stringify(frame) })).json(),
        info: async (path) => (await fetch(`http://${found.http}/info${path}/${token}`)).json(),
        stop: async () => {
            child.removeAllListeners('exit');
            const ended = new Promise((resolve) => child.once('exit', resolve));
            child.kill('SIGTERM');
            await ended;
            rmSync(folder, { recursive: true, force: true });
        },
    };
}

/** Fails when `promise` takes longer than anything may. */
export function within(promise, what) {
    let timer;
    const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${what}: nothing within the deadline`)), DEADLINE)));
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Looks again and again until `look` finds something. */
export async function until(look, what) {
    const end = Date.now() + DEADLINE;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`${what}: not within the deadline`);
        await new Promise((resolve) => setTimeout(resolve, 5));
    }
}
