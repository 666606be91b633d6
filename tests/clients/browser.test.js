// Rooms as browsers use them: canvas pictures, an <img> with a stream, WebRTC signalling (Protocol §9).
import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { open } from './browser.js';
import { start, until } from './porter.js';

let porter;
let browser;
before(async () => {
    porter = await start();
    browser = await open();
});
after(async () => {
    await browser?.close();
    await porter?.stop();
});

/** A proxy that passes so many bytes a second to the client, until it is opened. */
async function throttled(url, bytesPerSecond) {
    const [host, port] = url.split('//')[1].split(':');
    const sockets = [];
    let isOpen = false;
    const server = net.createServer((client) => {
        const upstream = net.connect({ host, port: Number(port) });
        sockets.push(client, upstream);
        client.pipe(upstream);
        upstream.on('data', (data) => {
            client.write(data);
            if (isOpen) return;
            upstream.pause();
            setTimeout(() => upstream.resume(), (1000 * data.length) / bytesPerSecond);
        });
        for (const socket of [client, upstream]) socket.on('error', () => {}).on('close', () => (client.destroy(), upstream.destroy()));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    return {
        url: `ws://127.0.0.1:${server.address().port}`,
        open: () => (isOpen = true),
        close: () => {
            for (const socket of sockets) socket.destroy();
            server.close();
        },
    };
}

/** In a page: a door whose canvas is filled with a colour, and sent as a JPEG with noise in it. */
const door = async (page, url) =>
    page.evaluate(async (url) => {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [640, 480];
        const context = canvas.getContext('2d');
        const socket = new WebSocket(url);
        await new Promise((resolve, reject) => ([socket.onopen, socket.onerror] = [resolve, reject]));
        window.show = async (colour, number) => {
            context.fillStyle = colour;
            context.fillRect(0, 0, 640, 480);
            for (let at = 0; at < 40_000; at += 1) {
                context.fillStyle = `rgb(${(at * 7919) % 256},${(at * 104729) % 256},${(at * 1299709) % 256})`;
                context.fillRect(100 + (at % 540), 100 + ((at * 31) % 380), 1, 1);
            }
            const blob = await new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', 0.95));
            socket.send(String(number));
            // More than the kernels between here and a slow phone hold.
            for (let times = 0; times < 10; times += 1) socket.send(await blob.arrayBuffer());
            return blob.size;
        };
    }, url);

/** In a page: a phone that shows what comes, and counts. */
const phone = async (page, url) =>
    page.evaluate(async (url) => {
        const socket = new WebSocket(url);
        socket.binaryType = 'blob';
        window.seen = { pictures: 0, shown: 0, texts: [], pixel: null };
        socket.onmessage = async ({ data }) => {
            if (typeof data === 'string') return window.seen.texts.push(data);
            const number = (window.seen.pictures += 1);
            const image = await createImageBitmap(data);
            const canvas = new OffscreenCanvas(image.width, image.height);
            const context = canvas.getContext('2d');
            context.drawImage(image, 0, 0);
            // Decoding takes its time, and what is decoded later may have come earlier.
            if (number < window.seen.shown) return;
            window.seen.shown = number;
            window.seen.pixel = [...context.getImageData(10, 10, 1, 1).data];
        };
        await new Promise((resolve, reject) => ([socket.onopen, socket.onerror] = [resolve, reject]));
    }, url);

const isBlue = ([red, green, blue]) => red < 60 && green < 60 && blue > 200;
const isRed = ([red, green, blue]) => red > 200 && green < 60 && blue < 60;

test('a door sends canvas pictures, two phones watch, one of them behind a slow line', async (t) => {
    const [sender, fast, slow] = [await browser.page(), await browser.page(), await browser.page()];
    const line = await throttled(porter.rooms, 50_000);
    t.after(line.close);
    await phone(fast, `${porter.rooms}/capture-c/1`);
    await phone(slow, `${line.url}/capture-c/1`);
    await door(sender, `${porter.rooms}/capture-c/0`);
    const count = 20;
    for (let number = 0; number < count; number += 1) {
        const size = await sender.evaluate(([colour, number]) => window.show(colour, number), [number === count - 1 ? 'blue' : 'red', number]);
        assert.ok(size > 80_000, `pictures of ${size} bytes test nothing`);
    }
    const seen = (page) => page.evaluate(() => window.seen);
    await until(async () => (await seen(fast)).pixel && isBlue((await seen(fast)).pixel), 'the newest picture at the fast phone');
    line.open();
    await until(async () => (await seen(slow)).pixel && isBlue((await seen(slow)).pixel), 'the newest picture at the slow phone');
    const [all, some] = [await seen(fast), await seen(slow)];
    assert.deepEqual([all.texts.length, some.texts.length], [count, count], 'texts are kept');
    assert.ok(some.pictures < count * 10, `${some.pictures} pictures: none was skipped`);
    for (const page of [sender, fast, slow]) {
        assert.deepEqual(page.errors, []);
        await page.close();
    }
});

test('an <img> shows the newest picture, and with ?stream=1 each as it comes', async () => {
    const [sender, viewer, eyes] = [await browser.page(), await browser.page(), await browser.page()];
    await door(sender, `${porter.rooms}/capture-i/0`);
    await sender.evaluate(() => window.show('red', 0));
    await until(async () => (await fetch(`${porter.pictures}/capture-i/1`)).status === 200, 'the first picture');
    await viewer.evaluate((url) => {
        document.body.innerHTML = `<img id=still src="${url}"><img id=stream src="${url}?stream=1">`;
    }, `${porter.pictures}/capture-i/1`);
    // Another site's image can't be read by a script, so the page is looked at.
    const pixel = async (id) => {
        const box = await viewer.locator(`#${id}`).boundingBox();
        if (!box || box.width < 640) return [0, 0, 0];
        const png = (await viewer.screenshot({ clip: { x: box.x, y: box.y, width: 320, height: 240 } })).toString('base64');
        return eyes.evaluate(async (png) => {
            const image = new Image();
            image.src = `data:image/png;base64,${png}`;
            await image.decode();
            const context = new OffscreenCanvas(320, 240).getContext('2d');
            context.drawImage(image, 0, 0);
            return [...context.getImageData(10, 10, 1, 1).data];
        }, png);
    };
    await until(async () => isRed(await pixel('still')), 'the still image');
    await until(async () => isRed(await pixel('stream')), 'the first picture of the stream');
    await sender.evaluate(() => window.show('blue', 1));
    await until(async () => isBlue(await pixel('stream')), 'the second picture of the stream');
    assert.ok(isRed(await pixel('still')));
    for (const page of [sender, viewer, eyes]) await page.close();
});

test('a page from elsewhere can neither join nor look', async () => {
    const page = await browser.page();
    await page.goto('about:blank');
    const closed = await page.evaluate(
        (url) =>
            new Promise((resolve) => {
                const socket = new WebSocket(url);
                socket.onopen = () => resolve('open');
                socket.onclose = ({ code }) => resolve(code);
            }),
        `${porter.rooms}/group-x/0`,
    );
    assert.equal(closed, 1006, 'its Origin is null');
    await page.close();
});

test('a script sees the close codes', async () => {
    const page = await browser.page();
    for (const [path, code] of [
        ['/capture-x/2', 4000],
        ['/', 4000],
        ['/group-x/0?token=00', 4003],
    ]) {
        const closed = await page.evaluate(
            (url) => new Promise((resolve) => (new WebSocket(url).onclose = ({ code }) => resolve(code))),
            porter.rooms + path,
        );
        assert.equal(closed, code, path);
    }
    await page.close();
});

test('two pages agree on a WebRTC connection through a one-to-one room', async () => {
    const [caller, callee] = [await browser.page(), await browser.page()];
    const join = (page, url, calls) =>
        page.evaluate(
            async ([url, calls]) => {
                const socket = new WebSocket(url);
                const peer = new RTCPeerConnection();
                const early = [];
                window.result = new Promise((resolve, reject) => {
                    const use = (channel) => {
                        channel.onopen = () => channel.send(calls ? 'from the caller' : 'from the callee');
                        channel.onmessage = ({ data }) => resolve(data);
                    };
                    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
                    peer.onicecandidate = ({ candidate }) => candidate && socket.send(JSON.stringify({ candidate }));
                    peer.ondatachannel = ({ channel }) => use(channel);
                    socket.onmessage = async ({ data }) => {
                        const { description, candidate } = JSON.parse(data);
                        if (description) {
                            await peer.setRemoteDescription(description);
                            for (const one of early.splice(0)) await peer.addIceCandidate(one);
                            if (description.type === 'offer') {
                                await peer.setLocalDescription();
                                socket.send(JSON.stringify({ description: peer.localDescription }));
                            }
                        } else if (peer.remoteDescription) await peer.addIceCandidate(candidate);
                        else early.push(candidate);
                    };
                    socket.onopen = async () => {
                        if (!calls) return;
                        use(peer.createDataChannel('talk'));
                        await peer.setLocalDescription();
                        socket.send(JSON.stringify({ description: peer.localDescription }));
                    };
                });
                window.result.catch(() => {});
            },
            [url, calls],
        );
    // The caller is first: its offer and its candidates wait for the callee.
    await join(caller, `${porter.rooms}/unit-3-1/0/web`, true);
    await join(callee, `${porter.rooms}/unit-3-1/1/web`, false);
    assert.equal(await caller.evaluate(() => window.result), 'from the callee');
    assert.equal(await callee.evaluate(() => window.result), 'from the caller');
    await caller.close();
    await callee.close();
});
