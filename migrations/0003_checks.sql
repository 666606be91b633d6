-- Version 3: a check on each row, so that a bit which the disk turned is found and not delivered (store/check.rs).
--
-- CRC-32 over the other columns of the row; NULL in rows that an older version wrote. A message has its checks in `flags`, since
-- a column behind the body would make each start read every overflow page, and one before it would mean to write every row anew:
-- bit 1: the row has checks; bits 8 to 31: the check of the body; bits 32 to 62: that of all else.
ALTER TABLE meta ADD COLUMN crc INTEGER;
ALTER TABLE alias ADD COLUMN crc INTEGER;
ALTER TABLE subscription ADD COLUMN crc INTEGER;
ALTER TABLE ended ADD COLUMN crc INTEGER;
ALTER TABLE opts_id ADD COLUMN crc INTEGER;
ALTER TABLE report ADD COLUMN crc INTEGER;
ALTER TABLE door_log ADD COLUMN crc INTEGER;
