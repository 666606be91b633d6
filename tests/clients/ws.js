// A member of a room by Node's `ws`, whose messages are awaited one by one.
import WebSocket from 'ws';
import { within } from './porter.js';

export class Member {
    /** Connects; `open` settles when the handshake is done. */
    constructor(url, options = {}) {
        this.socket = new WebSocket(url, { perMessageDeflate: true, ...options });
        this.heard = [];
        this.waiting = [];
        this.pings = 0;
        this.socket.on('message', (data, isBinary) => this.#take(isBinary ? data : data.toString()));
        this.socket.on('close', (code) => this.#take({ closed: code }));
        this.socket.on('ping', () => (this.pings += 1));
        this.socket.on('error', (error) => (this.error = error));
        this.open = within(
            new Promise((resolve, reject) => {
                this.socket.once('open', resolve);
                this.socket.once('error', reject);
            }),
            `opening ${url}`,
        );
        // Whoever does not await it learns from what comes next.
        this.open.catch(() => {});
    }

    static async connect(url, options) {
        const member = new Member(url, options);
        await member.open;
        return member;
    }

    #take(item) {
        const waiter = this.waiting.shift();
        if (waiter) waiter(item);
        else this.heard.push(item);
    }

    send(data, options) {
        this.socket.send(data, options ?? {});
    }

    /** The next message, text as a string, binary as a Buffer; `{closed: code}` at the end. */
    next() {
        if (this.heard.length > 0) return Promise.resolve(this.heard.shift());
        return within(new Promise((resolve) => this.waiting.push(resolve)), 'the next message');
    }

    /** Nothing has come: a ping's pong comes behind all that was on its way. */
    async quiet() {
        const pong = new Promise((resolve) => this.socket.once('pong', resolve));
        this.socket.ping();
        await within(pong, 'a pong');
        return this.heard.length === 0;
    }

    close() {
        this.socket.terminate();
    }
}
