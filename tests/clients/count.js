// Says how many cases of a client have passed. The runner compares that with `cases.json`.

/** `client`: its name, version and transport. */
export function report(client, passed) {
    console.log(`${passed} cases of client ${client}`);
}
