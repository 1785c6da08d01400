-- Nodes, and who holds and leads what. `crc` as in the other tables.
--
-- `progress` stays as it is. Of its columns `leader_epoch` is now the epoch that a directory of
-- before there were clusters had reached, until its first node registers; `incarnation`, `process`
-- and `started_at` are written empty: what they said is in `nodes`.

-- Every node that ever registered and was not removed.
CREATE TABLE nodes (
    id    INTEGER PRIMARY KEY CHECK (0 < id),
    entry TEXT    NOT NULL,
    crc   INTEGER NOT NULL
) STRICT;

-- What the cluster agrees on about each partition.
CREATE TABLE partitions (
    topic_id  BLOB    NOT NULL REFERENCES topics (id),
    partition INTEGER NOT NULL CHECK (0 <= partition),
    record    TEXT    NOT NULL,
    crc       INTEGER NOT NULL,
    PRIMARY KEY (topic_id, partition)
) STRICT, WITHOUT ROWID;

-- Nodes that have not yet reported that the files of a deleted topic are gone.
CREATE TABLE deleted_holders (
    topic_id BLOB    NOT NULL REFERENCES deleted_topics (id),
    node     INTEGER NOT NULL CHECK (0 < node),
    crc      INTEGER NOT NULL,
    PRIMARY KEY (topic_id, node)
) STRICT, WITHOUT ROWID;
