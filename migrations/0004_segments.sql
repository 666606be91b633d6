-- Version 4: messages that were stored together lie in one row, a segment, which fills a page of the file (store/segment.rs).
-- A row for each cost more than the message. The rows of `message` are moved by store/rows.rs; those that are damaged stay in it
-- for people to look at, and without any it is dropped.

-- Segments do not overlap: each message lies in the one with the greatest `mid` that is not above its own.
CREATE TABLE segment (
    -- None of its messages has a lower number, or one above `last`.
    mid     INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL,
    -- What the heads count from: service time and wall clock, ms.
    expires INTEGER NOT NULL,
    ts      INTEGER NOT NULL,
    -- A JSON array with an array for each message, ascending:
    --   mid, expires and ts: how far they are from the columns above, as items 0, 2 and 3
    --   1: the bytes of the body, 4: CRC-32 of the body, 5: 1 if a delivery report is kept
    --   6: the ids of the aliases owed it, ascending, as differences: [7,1,4] is 7, 8 and 12
    --   7: the alias bound to the publisher's link, 8: the topics of the publish
    --   9: under which of the topics (counted from 0) each receiver gets it: null for none, one number if it is the same for all,
    --      else an array beside item 6, with null for none
    -- The last items are left out where they are null.
    heads   TEXT    NOT NULL,
    -- CRC-32 of the other columns but the bodies.
    crc     INTEGER NOT NULL,
    -- A JSON array of the bodies, in the same order. Last, so that a scan of the other columns reads no overflow page.
    bodies  TEXT    NOT NULL
);

-- Who waits for what, for people with the sqlite3 shell.
DROP VIEW waiting;
CREATE VIEW waiting AS
SELECT
    owed.mid,
    alias.name AS alias,
    json_extract(owed.head, '$[8][' || owed.topic || ']') AS topic,
    datetime((owed.ts + json_extract(owed.head, '$[3]')) / 1000, 'unixepoch') AS published,
    datetime((owed.expires + json_extract(owed.head, '$[2]') - meta.service + meta.wall) / 1000, 'unixepoch') AS expires,
    json_extract(owed.head, '$[7]') AS publisher,
    -- Its meaning: numbers and escapes may be written another way than they were sent.
    CASE json_type(segment.bodies, '$[' || owed.place || ']')
        WHEN 'true' THEN 'true'
        WHEN 'false' THEN 'false'
        ELSE json_quote(json_extract(segment.bodies, '$[' || owed.place || ']'))
    END AS body
FROM (
    SELECT
        message.mid,
        message.segment,
        message.expires,
        message.ts,
        message.head,
        message.place,
        sum(receiver.value) OVER (PARTITION BY message.mid ORDER BY receiver.key) AS alias,
        CASE json_type(message.head, '$[9]')
            WHEN 'array' THEN json_extract(message.head, '$[9][' || receiver.key || ']')
            ELSE json_extract(message.head, '$[9]')
        END AS topic
    FROM (
        SELECT
            segment.mid + json_extract(head.value, '$[0]') AS mid,
            segment.mid AS segment,
            segment.expires,
            segment.ts,
            head.value AS head,
            head.key AS place
        FROM (SELECT * FROM segment WHERE json_valid(heads) AND json_valid(bodies)) AS segment, json_each(segment.heads) AS head
    ) AS message, json_each(message.head, '$[6]') AS receiver
) AS owed
JOIN segment ON segment.mid = owed.segment
JOIN alias ON alias.id = owed.alias
JOIN meta
WHERE NOT EXISTS (SELECT 1 FROM ended WHERE ended.mid = owed.mid AND ended.alias = owed.alias);
