-- Version 2: what a wall clock that steps must not spoil (PROTOCOL.md, section 4).

-- The highest wall time ever committed, ms: `wall` goes back with the clock, and tokens must not become valid again.
ALTER TABLE meta ADD COLUMN newest_wall INTEGER NOT NULL DEFAULT 0;
UPDATE meta SET newest_wall = wall;

-- The service time, ms, at which the row was written last: rules when it is forgotten. Old rows: as far from the last commit
-- as by the wall clock.
ALTER TABLE report ADD COLUMN service INTEGER NOT NULL DEFAULT 0;
UPDATE report SET service = (SELECT max(0, min(meta.service, report.at - meta.wall + meta.service)) FROM meta);
ALTER TABLE door_log ADD COLUMN service INTEGER NOT NULL DEFAULT 0;
UPDATE door_log SET service = (SELECT max(0, min(meta.service, door_log.at - meta.wall + meta.service)) FROM meta);
