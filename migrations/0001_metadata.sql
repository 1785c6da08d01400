-- 0x50494C47, "PILG": tells this file from any other SQLite database.
PRAGMA application_id = 1346980935;

-- `crc` of every table: CRC-32C over the row's other columns. SQLite pages carry no checksum.

-- Who this directory is. Written once, never replicated.
CREATE TABLE node (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    cluster_id BLOB    NOT NULL CHECK (length(cluster_id) = 16),
    disk_id    BLOB    NOT NULL CHECK (length(disk_id) = 16),
    crc        INTEGER NOT NULL
) STRICT;

-- How far the commands below have been applied, and the newest start of the node.
CREATE TABLE progress (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    applied      INTEGER NOT NULL CHECK (0 <= applied),
    incarnation  INTEGER NOT NULL CHECK (0 <= incarnation),
    leader_epoch INTEGER NOT NULL CHECK (0 <= leader_epoch),
    process      BLOB    CHECK (length(process) = 16),
    started_at   INTEGER,
    crc          INTEGER NOT NULL
) STRICT;

CREATE TABLE topics (
    id         BLOB    PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT    NOT NULL UNIQUE,
    settings   TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    crc        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Topics whose files may still be on disk.
CREATE TABLE deleted_topics (
    id         BLOB    PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT    NOT NULL,
    partitions INTEGER NOT NULL CHECK (0 < partitions),
    deleted_at INTEGER NOT NULL,
    crc        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Where a group stands on a broker: the offset of the record that it reads next.
CREATE TABLE positions (
    topic_id   BLOB    NOT NULL REFERENCES topics (id),
    broker     TEXT    NOT NULL,
    group_name TEXT    NOT NULL,
    partition  INTEGER NOT NULL CHECK (0 <= partition),
    position   INTEGER NOT NULL CHECK (0 <= position),
    set_at     INTEGER NOT NULL,
    crc        INTEGER NOT NULL,
    PRIMARY KEY (topic_id, broker, group_name, partition)
) STRICT, WITHOUT ROWID;
