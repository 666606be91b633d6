// Every rule of Protocol §9 by Node's `ws`.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { start, until, within } from './porter.js';
import { Member } from './ws.js';

let porter;
before(async () => (porter = await start('--websocket-frame', String(1 << 20))));
after(() => porter.stop());

const join = (path, options) => Member.connect(porter.rooms + path, options);
const picture = Buffer.concat([Buffer.from([0xff, 0xd8, 0xff, 0xe0]), Buffer.alloc(50_000, 7)]);

/** A TCP link: lines out, lines in. */
function line(frame) {
    const socket = net.connect(porter.tcp);
    const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
    socket.write(JSON.stringify(frame) + '\n');
    return { say: (next) => socket.write(JSON.stringify(next) + '\n'), next: async () => JSON.parse((await within(lines.next(), 'a line')).value), end: () => socket.destroy() };
}

test('compression is never negotiated, though the client offers it', async () => {
    const member = await join('/group-plain/0');
    assert.equal(member.socket.extensions, '');
    member.close();
});

test('one-to-one: each to the other, text as text, binary as binary, fragments whole', async () => {
    const [caller, callee] = [await join('/one/0/android'), await join('/one/1/ios')];
    caller.send('门');
    assert.equal(await callee.next(), '门');
    callee.send(Buffer.from([0, 255]));
    assert.deepEqual(await caller.next(), Buffer.from([0, 255]));
    caller.send('in ', { fin: false });
    caller.send('parts', { fin: true });
    assert.equal(await callee.next(), 'in parts');
    assert.ok((await caller.quiet()) && (await callee.quiet()));
    caller.close();
    callee.close();
});

test('one-to-one: early frames wait for the other and go with their sender', async () => {
    const caller = await join('/early/0/a');
    for (let n = 0; n < 70; n += 1) caller.send(String(n));
    await caller.quiet();
    const callee = await join('/early/1/b');
    for (let n = 0; n < 64; n += 1) assert.equal(await callee.next(), String(n));
    assert.ok(await callee.quiet());
    caller.close();
    callee.close();
    await until(async () => (await porter.push({ t: 7 })) && (await counts()).one === 0, 'the room is gone');
    const first = await join('/early/0/a');
    first.send('forgotten');
    await first.quiet();
    first.close();
    await until(async () => (await counts()).one === 0, 'the room is gone');
    const late = await join('/early/1/b');
    const again = await join('/early/0/a');
    again.send('new');
    assert.equal(await late.next(), 'new');
    late.close();
    again.close();
});

test('one-to-one: a newcomer is busy while the incumbent answers, and replaces one that does not', async () => {
    const caller = await join('/busy/0/a');
    const callee = await join('/busy/1/b');
    const newcomer = await join('/busy/0/a');
    assert.deepEqual(await newcomer.next(), { closed: 4009 });
    // `ws` answers pings by itself; one that is paused does not.
    caller.socket.pause();
    const taker = await join('/busy/0/a');
    taker.send('here');
    assert.equal(await callee.next(), 'here');
    caller.socket.resume();
    assert.deepEqual(await caller.next(), { closed: 4001 });
    taker.close();
    callee.close();
});

test('one-to-many: pictures to all phones, the newest to a new one, texts back to the doors', async () => {
    const [door, phone] = [await join('/capture-a/0'), await join('/capture-a/1')];
    door.send(picture);
    assert.deepEqual(await phone.next(), picture);
    const late = await join('/capture-a/1');
    assert.deepEqual(await late.next(), picture);
    late.send('open please');
    assert.equal(await door.next(), 'open please');
    assert.ok(await phone.quiet());
    for (const member of [door, phone, late]) member.close();
});

test('one-to-many: a slow phone skips to the newest picture and delays nobody', async () => {
    const [door, slow, fast] = [await join('/capture-s/0'), await join('/capture-s/1'), await join('/capture-s/1')];
    slow.socket.pause();
    for (let n = 0; n < 150; n += 1) {
        door.send(Buffer.concat([Buffer.from([n]), picture]));
        assert.equal((await fast.next())[0], n);
    }
    door.send('end');
    assert.equal(await fast.next(), 'end');
    slow.socket.resume();
    const seen = [];
    for (let item = await slow.next(); item !== 'end'; item = await slow.next()) seen.push(item[0]);
    assert.ok(seen.length < 150 && seen.at(-1) === 149, `${seen}`);
    for (const member of [door, slow, fast]) member.close();
});

test('many-to-many: each to all others, and a sender waits for the slowest', async () => {
    const members = [await join('/group-g/0'), await join('/group-g/1'), await join('/group-g/0')];
    members[0].send('hi');
    assert.equal(await members[1].next(), 'hi');
    assert.equal(await members[2].next(), 'hi');
    members[2].socket.pause();
    for (let n = 0; n < 100; n += 1) members[0].send(picture);
    await once(members[1].socket, 'message');
    await new Promise((resolve) => setTimeout(resolve, 500));
    const held = members[1].heard.length;
    assert.ok(held < 90, `${held} of 100 came, though one takes nothing`);
    members[2].socket.resume();
    const all = async (member) => until(() => member.heard.length >= 99, 'all frames');
    await Promise.all([all(members[1]), all(members[2])]);
    for (const member of members) member.close();
});

test('close codes: bad path, frame too large, text that is no UTF-8, shutdown', async () => {
    for (const path of ['/', '/capture-x/2', '/r/0', '/r/0/', '/%ff/0/a']) {
        const member = await join(path);
        assert.deepEqual(await member.next(), { closed: 4000 }, path);
    }
    const large = await join('/group-l/0');
    large.send(Buffer.alloc((1 << 20) + 1));
    assert.deepEqual(await large.next(), { closed: 1009 });
    const own = await start();
    const member = await Member.connect(`${own.rooms}/group-x/0`);
    await own.stop();
    assert.deepEqual(await member.next(), { closed: 1001 });
});

test('close codes: a token is needed, wrong, or right; a page from elsewhere gets 403', async () => {
    const own = await start('--auth-devices', 'token');
    for (const query of ['', '?token=00']) {
        const member = await Member.connect(`${own.rooms}/group-x/0${query}`);
        assert.deepEqual(await member.next(), { closed: 4003 });
    }
    const member = await Member.connect(`${own.rooms}/group-x/0?token=${own.token}`);
    assert.ok(await member.quiet());
    member.close();
    await own.stop();
    const stranger = new Member(`${porter.rooms}/group-x/0`, { origin: 'http://evil.example' });
    await assert.rejects(stranger.open, /403/);
    const page = await Member.connect(`${porter.rooms}/group-x/0`, { origin: 'http://localhost:8080' });
    page.close();
});

test('pictures by plain HTTP', async () => {
    assert.equal((await fetch(`${porter.pictures}/capture-h/1`)).status, 404);
    const phone = await join('/capture-h/1');
    const posted = await fetch(`${porter.pictures}/capture-h/0`, { method: 'POST', body: picture, headers: { 'Content-Type': 'image/jpeg' } });
    assert.equal(posted.status, 204);
    assert.deepEqual(await phone.next(), picture);
    const shown = await fetch(`${porter.pictures}/capture-h/1`);
    assert.equal(shown.headers.get('content-type'), 'image/jpeg');
    assert.ok(Math.abs(Date.parse(shown.headers.get('last-modified')) - Date.now()) < 60_000);
    assert.deepEqual(Buffer.from(await shown.arrayBuffer()), picture);
    phone.close();
});

test('door frames reach members, and a door in a room answers an opening', async () => {
    const [door, phone] = [await join('/capture-d/0'), await join('/capture-d/1')];
    const guest = line({ t: 9, r: 'capture-d', u: 'guest' });
    assert.deepEqual(JSON.parse(await door.next()), { t: 9, r: 'capture-d', u: 'guest' });
    assert.deepEqual(JSON.parse(await phone.next()), { t: 9, r: 'capture-d', u: 'guest' });
    const opened = porter.push({ t: 8, r: 'capture-d', u: 'guard', wait: true, num: 3 });
    assert.equal(JSON.parse(await door.next()).t, 8);
    door.send(JSON.stringify({ t: -8, r: 'capture-d', u: 'guard', ok: true }));
    assert.deepEqual(await opened, { t: -8, num: 3, doors: 1, ok: true });
    assert.ok(await phone.quiet(), 'neither an opening nor its result is for phones');
    guest.end();
    door.close();
    phone.close();
});

test('counts are those of who is there', async () => {
    await until(async () => (await counts()).members === 0, 'all have left');
    const members = [await join('/n/0/a'), await join('/n/1/b'), await join('/capture-n/1'), await join('/group-n/0')];
    assert.deepEqual(await counts(), { one: 1, many: 1, groups: 1, members: 4 });
    for (const member of members) member.close();
    await until(async () => (await counts()).members === 0, 'all have left');
});

async function counts() {
    const link = line({ t: 7 });
    const { One2OneSize: one, One2ManySize: many, Many2ManySize: groups } = await link.next();
    link.end();
    const [{ webSocketSize: members }] = Object.values(await porter.info(''));
    return { one, many, groups, members };
}
