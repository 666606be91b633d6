// Chromium, as Debian has it, with pages that come from an address of this machine.
import { createServer } from 'node:http';
import { once } from 'node:events';
import { chromium } from 'playwright-core';

const FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    // Pages on one machine find each other by address, without a name service.
    '--disable-features=WebRtcHideLocalIpsWithMdns',
];

/** A browser with an empty profile, and a server of one empty page. */
export async function open() {
    const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS });
    const server = createServer((_, answer) => answer.setHeader('Content-Type', 'text/html').end('<!doctype html><title>test</title>'));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = `http://127.0.0.1:${server.address().port}/`;
    return {
        /** A page; what goes wrong in it fails the test that looks at `errors`. */
        page: async () => {
            const page = await browser.newPage();
            page.errors = [];
            page.on('pageerror', (error) => page.errors.push(error));
            await page.goto(address);
            return page;
        },
        close: async () => {
            await browser.close();
            server.closeAllConnections();
            server.close();
        },
    };
}
