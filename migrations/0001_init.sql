-- Porter's database, version 1. Never edited after a release: changes are new numbered files.
--
-- Times are milliseconds. `expires`, `service` and `opts_id.at` are service time (PROTOCOL.md, section 4);
-- all others are the wall clock since 1970. To see who waits for what: SELECT * FROM waiting;

-- One row: what each commit carries beside its changes.
CREATE TABLE meta (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    service    INTEGER NOT NULL,
    wall       INTEGER NOT NULL,
    next_alias INTEGER NOT NULL,
    -- The newest block of the file `mids` that this database knows of.
    mid_block  INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 0, 0, 1, 0);

CREATE TABLE alias (
    id                INTEGER PRIMARY KEY,
    name              TEXT    NOT NULL UNIQUE,
    first_seen        INTEGER NOT NULL,
    last_seen         INTEGER NOT NULL,
    last_seen_service INTEGER NOT NULL,
    -- tcp, socketio, …; NULL: it never had a session.
    transport         TEXT,
    -- A JSON object.
    info              TEXT
);

CREATE TABLE subscription (
    alias INTEGER NOT NULL,
    topic TEXT    NOT NULL,
    PRIMARY KEY (alias, topic)
) WITHOUT ROWID;

-- One row per message somebody is owed. Ordered by arrival; the order by alias lives in memory.
CREATE TABLE message (
    mid       INTEGER PRIMARY KEY,
    expires   INTEGER NOT NULL,
    ts        INTEGER NOT NULL,
    -- 1: a delivery report is kept.
    flags     INTEGER NOT NULL,
    -- The alias bound to the publisher's link.
    publisher TEXT,
    -- A JSON array of names; NULL for publish_to_alias.
    topics    TEXT,
    -- The ids of the aliases owed it, ascending, as a JSON array of differences: [7,1,4] is 7, 8 and 12.
    receivers TEXT    NOT NULL,
    -- Under which of the topics (counted from 0) each receiver gets it: NULL for none, one number if it is the
    -- same for all, else a JSON array beside `receivers`, with null for none.
    topic_of  TEXT,
    -- Last, so that a scan of the other columns reads no overflow page.
    body      TEXT    NOT NULL
);

-- Deliveries that have ended while others of the same message have not.
CREATE TABLE ended (
    mid   INTEGER NOT NULL,
    alias INTEGER NOT NULL,
    PRIMARY KEY (mid, alias)
) WITHOUT ROWID;

-- Remembered opts.id and the answers to their repeats. A mid has at most one, and both grow with time.
CREATE TABLE opts_id (
    mid       INTEGER PRIMARY KEY,
    at        INTEGER NOT NULL,
    publisher TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    online    INTEGER NOT NULL,
    stored    INTEGER NOT NULL
);

-- Delivery reports of messages published with opts.receipt.
CREATE TABLE report (
    mid   INTEGER NOT NULL,
    alias TEXT    NOT NULL,
    state TEXT    NOT NULL,
    at    INTEGER NOT NULL,
    PRIMARY KEY (mid, alias)
) WITHOUT ROWID;

CREATE TABLE door_log (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    room    TEXT    NOT NULL,
    user    TEXT    NOT NULL,
    alias   TEXT    NOT NULL,
    label   TEXT    NOT NULL,
    address TEXT    NOT NULL,
    -- Doors that the frame reached.
    doors   INTEGER NOT NULL,
    -- 1 or 0; NULL until the result is known.
    ok      INTEGER,
    reason  TEXT
);
CREATE INDEX door_log_at ON door_log (at);
CREATE INDEX door_log_room_at ON door_log (room, at);

-- Who waits for what, for people with the sqlite3 shell.
CREATE VIEW waiting AS
SELECT
    owed.mid,
    alias.name AS alias,
    json_extract(message.topics, '$[' || owed.topic || ']') AS topic,
    datetime(message.ts / 1000, 'unixepoch') AS published,
    datetime((message.expires - meta.service + meta.wall) / 1000, 'unixepoch') AS expires,
    message.publisher,
    message.body
FROM (
    SELECT
        message.mid AS mid,
        sum(receiver.value) OVER (PARTITION BY message.mid ORDER BY receiver.key) AS alias,
        CASE WHEN message.topic_of LIKE '[%'
            THEN json_extract(message.topic_of, '$[' || receiver.key || ']')
            ELSE message.topic_of
        END AS topic
    FROM message, json_each(message.receivers) AS receiver
) AS owed
JOIN message ON message.mid = owed.mid
JOIN alias ON alias.id = owed.alias
JOIN meta
WHERE NOT EXISTS (SELECT 1 FROM ended WHERE ended.mid = owed.mid AND ended.alias = owed.alias);
