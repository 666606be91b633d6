// Compares what ran with `cases.json`: a client that is missing, new or ran another number of cases fails the run.

import { readFileSync } from 'node:fs';

const expected = JSON.parse(readFileSync(new URL('cases.json', import.meta.url)));
const ran = {};
for (const line of readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean)) {
    const [, count, client] = /^(\d+) cases of client (.*)$/.exec(line);
    ran[client] = Number(count);
}
const clients = [...new Set([...Object.keys(expected), ...Object.keys(ran)])];
const wrong = clients.filter((client) => expected[client] !== ran[client]);
for (const client of wrong) console.error(`clients: ${client} ran ${ran[client] ?? 'no'} cases; cases.json says ${expected[client] ?? 'nothing'}`);
const total = Object.values(ran).reduce((sum, count) => sum + count, 0);
console.log(`${total} cases of ${Object.keys(ran).length} clients`);
process.exit(wrong.length === 0 ? 0 : 1);
