-- How far the state has come in the Raft log, and who forms the cluster there. Written in the
-- transaction of what was applied. Its row is made with the log: one without the other means that
-- the log was lost. `crc` as in the other tables.
CREATE TABLE raft (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    applied    TEXT,
    membership TEXT    NOT NULL,
    diverged   INTEGER NOT NULL CHECK (diverged IN (0, 1)),
    crc        INTEGER NOT NULL
) STRICT;
