// What every JavaScript client is put through, in Node and in a browser alike: so nothing here is Node's. An `Env` says which client
// it is, where the server is, and reaches the peers that the client talks to.

/** How long anything may take before a case has failed: generous, since machines are shared. */
const DEADLINE_MS = 30_000;

/** A text with what servers and clients miscount: two, three and four bytes, escapes, separators of lines, a lone quote. */
const HARD = '中文😀𝒳é — "\\n" \u2028\u2029 ± ÿ \u0000 \n 末';

function fail(message) {
    throw new Error(message);
}

function equal(got, expected, what = '') {
    const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
    if (a !== b) fail(`${what}\n  expected ${shortened(b)}\n       got ${shortened(a)}`);
}

function shortened(text) {
    return text !== undefined && text.length > 2_000 ? `${text.slice(0, 2_000)}… (${text.length})` : text;
}

function soon(promise, what) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no ${what} within the deadline`)), DEADLINE_MS);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Until `holds` gives something, asked again and again. */
async function until(holds, what) {
    const end = Date.now() + DEADLINE_MS;
    for (;;) {
        const value = await holds();
        if (value) return value;
        if (Date.now() > end) fail(`never: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
}

/** Options with which a client is its own connection, and soon back. */
export function options(query, more) {
    const text = Object.entries(query ?? {}).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
    return { forceNew: true, query: text, reconnectionDelay: 20, reconnectionDelayMax: 200, timeout: DEADLINE_MS, ...more };
}

const HEARD = [
    'connect', 'disconnect', 'error', 'reconnect', 'push', 'push_done', 'push_c_error', 'receipt', 'heartbeat_c', 'register_c', 'get_topic_c',
    'pull_c', 'do_push_c', 'connect_c', 'info_status_c', 'unregister_c', 'server_info_c', 'open_door_c', 'phone_c', 'door_c', 'door',
    'door_result_c',
];

/** A client that remembers what came and hands it out in order. */
export class Phone {
    #heard = new Map(HEARD.map((name) => [name, []]));
    #waiting = new Map(HEARD.map((name) => [name, []]));

    constructor(socket) {
        this.socket = socket;
        for (const name of HEARD) socket.on(name, (...args) => this.#hear(name, args));
    }

    #hear(name, args) {
        const waiting = this.#waiting.get(name).shift();
        if (waiting) waiting(args);
        else this.#heard.get(name).push(args);
    }

    emit(...args) {
        this.socket.emit(...args);
    }

    /** The arguments of the next event of that name. */
    all(name) {
        const heard = this.#heard.get(name).shift();
        if (heard) return Promise.resolve(heard);
        return soon(new Promise((resolve) => this.#waiting.get(name).push(resolve)), `event ${name}`);
    }

    /** The first of them. */
    async next(name) {
        return (await this.all(name))[0];
    }

    /** How many came that nobody has asked for. */
    left(name) {
        return this.#heard.get(name).length;
    }

    /** Emits and waits for the acknowledgement: its arguments. */
    ask(name, ...args) {
        return soon(new Promise((resolve) => this.socket.emit(name, ...args, (...answer) => resolve(answer))), `ack of ${name}`);
    }

    /** Emits; the answer must come by both ways and be the same. */
    async both(name, argument) {
        const [answer] = await this.ask(name, argument);
        equal(await this.next(`${name}_c`), answer, `${name}: event and acknowledgement`);
        return answer;
    }

    /** All that was sent to this client before now has been heard. */
    async settle() {
        await this.ask('server_info', {});
        await this.next('server_info_c');
    }

    close() {
        this.socket.disconnect();
    }
}

/** A phone that is connected; `more` are options of the client. */
export async function connected(env, query, more = {}) {
    const phone = new Phone(env.open(query, more));
    env.opened.push(phone);
    await phone.next('connect');
    return phone;
}

let aliases = 0;
/** An alias that no other case has. */
function fresh(env, name) {
    aliases += 1;
    return `${env.prefix}-${name}-${aliases}`;
}

async function publish(env, alias, msg, opts = {}) {
    const frame = { t: 6, method: 'publish_to_alias', alias, msg, opts };
    const { text } = await env.rest('POST', '/push/TOKEN', JSON.stringify(frame));
    const answer = JSON.parse(text);
    if (answer.t !== -6) fail(`publish got ${text}`);
    return answer;
}

/** What a case is named, and what it does. */
export const CASES = {
    async 'binds by the query, and is online until it leaves'(env) {
        const alias = fresh(env, '住户/1 +&=😀');
        const phone = await connected(env, { alias });
        const status = async () => JSON.parse((await env.rest('GET', `/info/status/${encodeURIComponent(alias)}/TOKEN`)).text).status;
        equal(await status(), 'online');
        equal(await phone.both('heartbeat', { t: 1, alias }), { t: -1, alias });
        phone.close();
        equal(await phone.next('disconnect'), 'io client disconnect');
        await until(async () => (await status()) === 'offline', `${alias} is offline`);
    },

    async 'binds by the first heartbeat, and gets what waits'(env) {
        const alias = fresh(env, 'phone');
        const { mid } = await publish(env, alias, 'before');
        const phone = await connected(env);
        phone.emit('heartbeat', { alias });
        equal(await phone.next('heartbeat_c'), { t: -1, alias });
        const push = await phone.next('push');
        equal([push.t, push.mid, push.alias, push.msg], [5, mid, alias, 'before']);
        equal(await phone.ask('push_c', { mid }), []);
        await phone.settle();
        equal(phone.left('push_c_error'), 0);
    },

    async 'topics: register, get_topic, publish, unregister'(env) {
        const alias = fresh(env, 'phone');
        const topic = `楼-${alias}`;
        const phone = await connected(env, { alias });
        equal(await phone.both('register', { t: 2, topic: [topic, 'z'], info: { model: 'x' }, num: 7 }), { t: -2, num: 7 });
        equal(await phone.both('get_topic', { num: 'a' }), { t: -3, num: 'a', topic: ['z', topic] });
        const published = await phone.both('do_push', { method: 'publish', topic, msg: { n: 1 }, num: 2 });
        equal([published.t, published.num, published.online, published.stored], [-6, 2, 1, 0]);
        const push = await phone.next('push');
        equal([push.mid, push.topic, push.msg], [published.mid, topic, { n: 1 }]);
        equal(await phone.both('unregister', { topic: 'z', num: 3 }), { t: -12, num: 3 });
        equal((await phone.both('get_topic', {})).topic, [topic]);
    },

    async 'pull hands out what waits, with its mids'(env) {
        const alias = fresh(env, 'phone');
        const mids = [];
        for (const msg of ['one', { two: 2 }, [3]]) mids.push((await publish(env, alias, msg)).mid);
        const phone = await connected(env);
        const pulled = await phone.both('pull', { alias, num: 1 });
        equal(pulled, { t: -4, msg: ['one', { two: 2 }, [3]], mid: mids, more: false, num: 1 });
        equal(await phone.both('pull', { num: 2 }), { t: -4, msg: [], mid: [], more: false, num: 2 });
        equal(phone.left('push'), 0);
    },

    async 'server_info and info_status'(env) {
        const alias = fresh(env, 'phone');
        const phone = await connected(env, { alias });
        const info = await phone.both('server_info', { num: '9' });
        equal(Object.keys(info), ['t', 'One2OneSize', 'One2ManySize', 'Many2ManySize', 'channelSize', 'num']);
        await phone.both('register', { topic: 'news' });
        equal(await phone.both('info_status', { alias, num: 4 }), { alias, list: ['news'], status: 'online', num: 4 });
        equal(await phone.both('info_status', { alias: 'nobody' }), { alias: 'nobody', list: [], status: 'offline' });
    },

    async 'a message ends for the whole family, and comes again until then'(env) {
        const alias = fresh(env, 'family');
        const [mother, father] = [await connected(env, { alias }), await connected(env, { alias })];
        const { mid, online } = await publish(env, alias, 'ring');
        equal(online, 1);
        equal((await mother.next('push')).mid, mid);
        equal((await father.next('push')).mid, mid);
        father.close();
        const again = await connected(env, { alias });
        const push = await again.next('push');
        equal([push.mid, push.dup, push.msg], [mid, true, 'ring']);
        again.emit('push_c', { t: -5, mid });
        equal(await mother.next('push_done'), { t: 15, mid });
        const late = await connected(env, { alias });
        await late.settle();
        equal(late.left('push'), 0, 'an ended message came again');
    },

    async 'a receipt tells the publisher who has acknowledged'(env) {
        const [sender, receiver] = [fresh(env, 'sender'), fresh(env, 'receiver')];
        const phone = await connected(env, { alias: sender });
        const other = await connected(env, { alias: receiver });
        const frame = { method: 'publish_to_alias', alias: receiver, msg: 1, opts: { receipt: true, id: 'once' }, num: 1 };
        const published = await phone.both('do_push', frame);
        equal((await other.next('push')).mid, published.mid);
        await other.ask('push_c', { mid: published.mid });
        const receipt = await phone.next('receipt');
        equal([receipt.t, receipt.mid, receipt.alias, typeof receipt.at], [13, published.mid, receiver, 'number']);
        equal((await phone.both('do_push', frame)).mid, published.mid, 'the same key');
    },

    async 'speaks with a controller on TCP, both ways'(env) {
        const [alias, gate] = [fresh(env, 'phone'), fresh(env, 'gate')];
        const phone = await connected(env, { alias });
        const tcp = await env.tcp();
        await tcp.send(JSON.stringify({ t: 11, alias: gate }));
        equal(JSON.parse(await tcp.line()), { t: -11, alias: gate });
        phone.emit('do_push', { method: 'publish_to_alias', alias: gate, msg: HARD });
        const push = JSON.parse(await tcp.line());
        equal([push.t, push.alias, push.msg], [5, gate, HARD]);
        await tcp.send(JSON.stringify({ t: -5, mid: push.mid }));
        equal((await phone.next('do_push_c')).mid, push.mid);
        await tcp.send(JSON.stringify({ t: 6, method: 'publish_to_alias', alias, msg: { text: HARD }, num: 1 }));
        const back = await phone.next('push');
        equal(back.msg, { text: HARD });
        await phone.ask('push_c', { mid: back.mid });
        equal(JSON.parse(await tcp.line()).mid, back.mid);
        await tcp.close();
    },

    async 'opens a door, and hears what became of it'(env) {
        const room = fresh(env, '单元 3-1');
        const phone = await connected(env);
        const open = { r: room, u: 'ann', num: 1 };
        equal(await phone.both('open_door', open), { t: -8, r: room, u: 'ann', ok: false, reason: 'no_door', num: 1 });
        const door = await connected(env);
        door.emit('door', { r: room, u: 'gate' });
        await door.settle();
        phone.emit('phone', { r: room, u: 'ann' });
        equal(await door.next('door'), { t: 9, r: room, u: 'ann' });
        const asked = phone.both('open_door', { r: room, u: 'ann', num: 'x' });
        equal(await door.next('door'), { t: 8, r: room, u: 'ann', num: 'x' });
        door.emit('door_result', { r: room, u: 'ann', ok: true });
        equal(await asked, { t: -8, r: room, u: 'ann', ok: true, num: 'x' });
        door.emit('door', { r: room, u: 'gate' });
        equal(await phone.next('door'), { t: 10, r: room, u: 'gate' });
    },

    async 'opens a door on TCP, and is a door for REST'(env) {
        const room = fresh(env, 'gate');
        const tcp = await env.tcp();
        await tcp.send(JSON.stringify({ t: 10, r: room, u: 'iron' }));
        await tcp.send('{"t":7}');
        await tcp.line();
        const phone = await connected(env);
        const asked = phone.both('open_door', { r: room, u: 'bo' });
        equal(JSON.parse(await tcp.line()), { t: 8, r: room, u: 'bo' });
        await tcp.send(JSON.stringify({ t: -8, r: room, u: 'bo', ok: false, reason: 'locked' }));
        equal(await asked, { t: -8, r: room, u: 'bo', ok: false, reason: 'locked' });
        await tcp.close();
        const door = await connected(env, { alias: fresh(env, 'door') });
        const other = fresh(env, 'back door');
        equal(await door.ask('door', { r: other, u: 'wood' }), []);
        const answer = env.rest('POST', '/push/TOKEN', JSON.stringify({ t: 8, r: other, u: 'office', wait: true }));
        equal(await door.next('door'), { t: 8, r: other, u: 'office', wait: true });
        door.emit('door_result', { r: other, u: 'office', ok: true });
        equal(JSON.parse((await answer).text), { t: -8, doors: 1, ok: true });
    },

    async 'every event is refused by its own answer'(env) {
        const phone = await connected(env);
        const refusals = [
            ['heartbeat', {}, 'no_alias'], ['register', { topic: 'x' }, 'no_alias'], ['get_topic', {}, 'no_alias'],
            ['pull', {}, 'no_alias'], ['do_push', { method: 'publish' }, 'missing_field'], ['info_status', {}, 'missing_field'],
            ['unregister', { topic: 'x' }, 'no_alias'], ['server_info', { num: {} }, 'bad_field'], ['open_door', { u: 'x' }, 'missing_field'],
            ['phone', { r: '' }, 'bad_field'], ['door', 5, 'bad_json'], ['door_result', {}, 'missing_field'],
        ];
        for (const [name, argument, code] of refusals) {
            const refused = await phone.both(name, argument);
            equal([refused.t, refused.code], [0, code], `${name} ${JSON.stringify(argument)}: ${JSON.stringify(refused)}`);
        }
        phone.emit('push_c', {});
        equal((await phone.next('push_c_error')).code, 'missing_field');
        phone.emit('unheard_of', 1);
        equal((await phone.ask('heartbeat', JSON.stringify({ alias: fresh(env, 'text') })))[0].t, -1, 'a string that is a frame');
    },

    async 'a refused alias is an error, and no session'(env) {
        const phone = new Phone(env.open({ alias: 'x'.repeat(129) }, { reconnection: false }));
        env.opened.push(phone);
        const refused = await phone.next('error');
        equal([refused.t, refused.code], [0, 'bad_field']);
        equal(phone.left('connect'), 0);
    },

    async 'Chinese, emoji and whatever is miscounted come as they were sent'(env) {
        const alias = fresh(env, '手机😀');
        const phone = await connected(env, { alias });
        const texts = [HARD, '字'.repeat(5_000), '😀'.repeat(5_000), 'é'.repeat(300), '中😀é', '\u00e4\u00b8\u00ad', { 键: ['𝒳', '"', '\\', '/'] }];
        for (const msg of texts) phone.emit('do_push', { method: 'publish_to_alias', alias, msg, num: '号😀' });
        for (const msg of texts) {
            equal((await phone.next('push')).msg, msg);
            equal((await phone.next('do_push_c')).num, '号😀');
        }
        const { mid } = await publish(env, alias, HARD);
        const push = await phone.next('push');
        equal([push.mid, push.alias, push.msg], [mid, alias, HARD]);
    },

    async 'messages of 60 KB, both ways'(env) {
        const alias = fresh(env, 'phone');
        const phone = await connected(env, { alias });
        const large = 'x'.repeat(60_000);
        for (let n = 0; n < 8; n += 1) phone.emit('do_push', { method: 'publish_to_alias', alias, msg: large + n, num: n });
        const answered = [];
        for (let n = 0; n < 8; n += 1) {
            const push = await phone.next('push');
            equal(push.msg, large + n);
            phone.emit('push_c', { mid: push.mid });
            answered.push((await phone.next('do_push_c')).num);
        }
        equal(answered.sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
        const refused = await phone.both('do_push', { method: 'publish_to_alias', alias, msg: 'x'.repeat(66_000) });
        equal([refused.t, refused.code], [0, 'too_large']);
    },

    async 'a burst of 2,000 messages comes in order, and 2,000 events are answered in order'(env) {
        const [alias, gate] = [fresh(env, 'phone'), fresh(env, 'gate')];
        const phone = await connected(env, { alias });
        const tcp = await env.tcp();
        await tcp.send(JSON.stringify({ t: 11, alias: gate }));
        await tcp.line();
        const frames = Array.from({ length: 2_000 }, (_, n) => ({ t: 6, method: 'publish_to_alias', alias, msg: n, opts: { time_to_live: 60 } }));
        await tcp.send(frames.map((frame) => JSON.stringify(frame)).join('\n'));
        for (let n = 0; n < 2_000; n += 1) {
            const push = await phone.next('push');
            equal(push.msg, n, 'the next of the burst');
            phone.emit('push_c', { mid: push.mid });
        }
        for (const line of await tcp.lines(2_000)) equal(JSON.parse(line).t, -6);
        for (let n = 0; n < 2_000; n += 1) phone.emit('heartbeat', { alias, num: n });
        for (let n = 0; n < 2_000; n += 1) equal((await phone.next('heartbeat_c')).num, n, 'the next answer');
        await tcp.close();
    },

    async 'the ninth session of an alias ends the quietest, which does not come back'(env) {
        const alias = fresh(env, 'family');
        const phones = [];
        for (let n = 0; n < 8; n += 1) {
            phones.push(await connected(env, { alias }));
            phones[n].emit('heartbeat', { alias });
            await phones[n].next('heartbeat_c');
        }
        const ninth = await connected(env, { alias });
        equal(await phones[0].next('disconnect'), 'io server disconnect');
        await publish(env, alias, 'to eight', { time_to_live: 0 });
        for (const phone of [...phones.slice(1), ninth]) equal((await phone.next('push')).msg, 'to eight');
        equal([phones[0].socket.connected, phones[0].left('push'), phones[0].left('reconnect')], [false, 0, 0]);
    },

    async 'the server is killed and started again: clients come back by themselves and nothing is lost'(env) {
        const alias = fresh(env, 'phone');
        const phone = await connected(env, { alias });
        await phone.both('register', { topic: 'house' });
        const sent = [];
        for (let n = 0; n < 20; n += 1) sent.push((await publish(env, alias, n)).mid);
        // Acknowledged in part, so that some come again.
        for (let n = 0; n < 10; n += 1) await phone.ask('push_c', { mid: (await phone.next('push')).mid });
        await phone.settle();
        while (phone.left('push') > 0) await phone.next('push');
        await env.restart();
        equal(typeof (await phone.next('disconnect')), 'string');
        await phone.next('connect');
        const { mid } = await publish(env, alias, 'after');
        const came = [];
        while (!came.includes(mid)) came.push((await phone.next('push')).mid);
        const owed = [...sent.slice(10), mid];
        equal(came.filter((one) => owed.includes(one)), owed, 'what was owed, in order');
        equal((await phone.both('get_topic', {})).topic, ['house']);
    },
};
