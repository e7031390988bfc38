-- Tables for the records of connprobe, on a ClickHouse cluster whose servers have the macros {cluster}, {shard} and {replica}.
-- A single server: see single-node.sed. Each statement can be run again. What is asked of the tables is in views.sql.
--
-- A line goes in as it was written; a table without storage hands it to four others:
--
--   incoming -> records      every line, whole, for a month
--            -> findings     findings, their fields in columns and the whole record, for 400 days
--            -> heartbeats   heartbeats, their numbers in columns, for 90 days
--            -> last_records the latest record of each type but findings of each host, for 400 days
--
-- How long rows are kept, and their partition, goes by `received`, this store's clock: a host whose clock is wrong, or whose records
-- come late, makes neither partitions of long ago nor rows that are gone at once. What happened when goes by `time`, the host's.
-- A record that comes twice has the same key, and goes when parts are merged; the views count each once before that, too.

CREATE DATABASE IF NOT EXISTS connprobe ON CLUSTER '{cluster}';

CREATE TABLE IF NOT EXISTS connprobe.incoming ON CLUSTER '{cluster}'
(
    record String
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS connprobe.records_local ON CLUSTER '{cluster}'
(
    received DateTime('UTC') CODEC(Delta, ZSTD(1)),
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    -- Empty for a line that is no record of version 1.
    type LowCardinality(String),
    host String CODEC(ZSTD(1)),
    machine_id String CODEC(ZSTD(1)),
    boot_id UUID CODEC(ZSTD(1)),
    run_id UUID CODEC(ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    record String CODEC(ZSTD(3))
)
ENGINE = ReplicatedReplacingMergeTree
PARTITION BY toYYYYMMDD(received)
ORDER BY (type, host, time, run_id, seq, cityHash64(record))
TTL received + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS connprobe.findings_local ON CLUSTER '{cluster}'
(
    received DateTime('UTC') CODEC(Delta, ZSTD(1)),
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    host String CODEC(ZSTD(1)),
    machine_id String CODEC(ZSTD(1)),
    boot_id UUID CODEC(ZSTD(1)),
    run_id UUID CODEC(ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    finding_id UUID CODEC(ZSTD(1)),
    state LowCardinality(String),
    outcome LowCardinality(String),
    verdict LowCardinality(String),
    cause LowCardinality(String),
    confidence LowCardinality(String),
    vantage LowCardinality(String),
    community_id String CODEC(ZSTD(1)),
    -- Of a forwarder that translates the connection: how who accepted it names it.
    translated_community_id String CODEC(ZSTD(1)),
    netns UInt32 CODEC(ZSTD(1)),
    -- Of an endpoint.
    local_address String CODEC(ZSTD(1)),
    local_port UInt16 CODEC(ZSTD(1)),
    remote_address String CODEC(ZSTD(1)),
    remote_port UInt16 CODEC(ZSTD(1)),
    -- Of a forwarder.
    initiator_address String CODEC(ZSTD(1)),
    initiator_port UInt16 CODEC(ZSTD(1)),
    responder_address String CODEC(ZSTD(1)),
    responder_port UInt16 CODEC(ZSTD(1)),
    ingress String CODEC(ZSTD(1)),
    egress String CODEC(ZSTD(1)),
    tcp_state LowCardinality(String),
    owner_pid UInt32 CODEC(ZSTD(1)),
    owner_comm LowCardinality(String),
    owner_unit LowCardinality(String),
    owner_container_id String CODEC(ZSTD(1)),
    owner_pod_uid String CODEC(ZSTD(1)),
    owner_vm String CODEC(ZSTD(1)),
    since DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    deadline Nullable(DateTime64(9, 'UTC')) CODEC(ZSTD(1)),
    deadline_error LowCardinality(String),
    -- Why and where the latest segment was dropped, if any was.
    drop_reason LowCardinality(String),
    drop_site LowCardinality(String),
    drop_hook LowCardinality(String),
    -- Each rule that can have dropped one: `family table chain: text`.
    drop_rules Array(String) CODEC(ZSTD(1)),
    evidence Array(LowCardinality(String)) CODEC(ZSTD(1)),
    missing_evidence Array(LowCardinality(String)) CODEC(ZSTD(1)),
    remedy String CODEC(ZSTD(1)),
    remedy_command String CODEC(ZSTD(1)),
    record String CODEC(ZSTD(3)),
    INDEX connection (community_id, translated_community_id) TYPE bloom_filter GRANULARITY 4
)
ENGINE = ReplicatedReplacingMergeTree
PARTITION BY toYYYYMM(received)
ORDER BY (finding_id, seq, run_id)
TTL received + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS connprobe.heartbeats_local ON CLUSTER '{cluster}'
(
    received DateTime('UTC') CODEC(Delta, ZSTD(1)),
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    host String CODEC(ZSTD(1)),
    boot_id UUID CODEC(ZSTD(1)),
    run_id UUID CODEC(ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    watched_seconds Float64 CODEC(ZSTD(1)),
    open_cases UInt64 CODEC(T64, ZSTD(1)),
    open_findings UInt64 CODEC(T64, ZSTD(1)),
    findings UInt64 CODEC(T64, ZSTD(1)),
    lost UInt64 CODEC(T64, ZSTD(1)),
    undecodable UInt64 CODEC(T64, ZSTD(1)),
    questions_waiting UInt64 CODEC(T64, ZSTD(1)),
    cpu_seconds Float64 CODEC(ZSTD(1)),
    rss_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    bpf_seconds Nullable(Float64) CODEC(ZSTD(1)),
    sinks_dropped UInt64 CODEC(T64, ZSTD(1)),
    -- The sinks that fail, and why.
    sinks_failing Array(String) CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree
PARTITION BY toYYYYMM(received)
ORDER BY (host, time, run_id, seq)
TTL received + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1;

-- So that to ask how ten thousand hosts are is to read as many rows.
CREATE TABLE IF NOT EXISTS connprobe.last_records_local ON CLUSTER '{cluster}'
(
    received DateTime('UTC'),
    time DateTime64(9, 'UTC'),
    type LowCardinality(String),
    host String,
    boot_id UUID,
    run_id UUID,
    seq UInt64,
    record String CODEC(ZSTD(3)),
    -- The latest by the host's clock stays, whenever it came; one whose clock is ahead is taken at its arrival.
    version DateTime64(9, 'UTC')
)
ENGINE = ReplicatedReplacingMergeTree(version)
ORDER BY (host, type)
TTL received + INTERVAL 400 DAY;

-- All records of one host are on one shard, also those that come a second time by another server.
CREATE TABLE IF NOT EXISTS connprobe.records ON CLUSTER '{cluster}' AS connprobe.records_local ENGINE = Distributed('{cluster}', connprobe, records_local, cityHash64(host));
CREATE TABLE IF NOT EXISTS connprobe.findings ON CLUSTER '{cluster}' AS connprobe.findings_local ENGINE = Distributed('{cluster}', connprobe, findings_local, cityHash64(host));
CREATE TABLE IF NOT EXISTS connprobe.heartbeats ON CLUSTER '{cluster}' AS connprobe.heartbeats_local ENGINE = Distributed('{cluster}', connprobe, heartbeats_local, cityHash64(host));
CREATE TABLE IF NOT EXISTS connprobe.last_records ON CLUSTER '{cluster}' AS connprobe.last_records_local ENGINE = Distributed('{cluster}', connprobe, last_records_local, cityHash64(host));

-- Fields that are not named here stay in `record`; one that is absent, or null, is empty, 0 or NULL. So a new field of the contract
-- breaks nothing, and gets its column when somebody wants one: ALTER TABLE ... ADD COLUMN, then ALTER TABLE ... MODIFY QUERY here.

CREATE MATERIALIZED VIEW IF NOT EXISTS connprobe.incoming_to_records ON CLUSTER '{cluster}' TO connprobe.records AS
WITH
    JSONExtract(record, 'Tuple(
        schema String, type String, time String, run_id String, seq UInt64,
        host Tuple(name String, machine_id String, boot_id String))') AS r,
    isValidJSON(record) AND r.schema = 'connprobe/1' AS is_record
SELECT
    now('UTC') AS received,
    ifNull(parseDateTime64BestEffortOrNull(r.time, 9, 'UTC'), now64(9, 'UTC')) AS time,
    if(is_record, r.type, '') AS type,
    r.host.name AS host,
    r.host.machine_id AS machine_id,
    toUUIDOrZero(r.host.boot_id) AS boot_id,
    toUUIDOrZero(r.run_id) AS run_id,
    r.seq AS seq,
    record
FROM connprobe.incoming
WHERE record != '';

CREATE MATERIALIZED VIEW IF NOT EXISTS connprobe.incoming_to_last_records ON CLUSTER '{cluster}' TO connprobe.last_records AS
WITH
    JSONExtract(record, 'Tuple(
        schema String, type String, time String, run_id String, seq UInt64,
        host Tuple(name String, boot_id String))') AS r
SELECT
    now('UTC') AS received,
    ifNull(parseDateTime64BestEffortOrNull(r.time, 9, 'UTC'), now64(9, 'UTC')) AS time,
    r.type AS type,
    r.host.name AS host,
    toUUIDOrZero(r.host.boot_id) AS boot_id,
    toUUIDOrZero(r.run_id) AS run_id,
    r.seq AS seq,
    record,
    least(time, now64(9, 'UTC')) AS version
FROM connprobe.incoming
WHERE r.schema = 'connprobe/1' AND r.type != 'finding' AND isValidJSON(record);

CREATE MATERIALIZED VIEW IF NOT EXISTS connprobe.incoming_to_findings ON CLUSTER '{cluster}' TO connprobe.findings AS
WITH
    JSONExtract(record, 'Tuple(
        schema String, type String, time String, run_id String, seq UInt64,
        host Tuple(name String, machine_id String, boot_id String),
        finding_id String, state String, outcome String, verdict String, cause String, confidence String, vantage String,
        connection Tuple(
            netns UInt32, community_id String, tcp_state String,
            local Tuple(address String, port UInt16), remote Tuple(address String, port UInt16),
            initiator Tuple(address String, port UInt16), responder Tuple(address String, port UInt16),
            translated Tuple(community_id String), ingress Tuple(name String), egress Tuple(name String)),
        owner Tuple(pid UInt32, comm String, unit String, container_id String, pod_uid String, vm String),
        since String,
        deadline Tuple(time String, error String),
        evidence Array(Tuple(kind String, data Tuple(
            reason String, site String, hook String,
            rules Array(Tuple(family String, `table` String, chain String, handle Nullable(UInt64), text String))))),
        missing_evidence Array(Tuple(kind String)),
        remedies Array(Tuple(text String, command String)))') AS r,
    arrayLast(e -> e.kind = 'segment_dropped', r.evidence) AS dropped,
    arrayLast(e -> e.kind = 'drop_place', r.evidence) AS place
SELECT
    now('UTC') AS received,
    ifNull(parseDateTime64BestEffortOrNull(r.time, 9, 'UTC'), now64(9, 'UTC')) AS time,
    r.host.name AS host,
    r.host.machine_id AS machine_id,
    toUUIDOrZero(r.host.boot_id) AS boot_id,
    toUUIDOrZero(r.run_id) AS run_id,
    r.seq AS seq,
    toUUIDOrZero(r.finding_id) AS finding_id,
    r.state AS state,
    r.outcome AS outcome,
    r.verdict AS verdict,
    r.cause AS cause,
    r.confidence AS confidence,
    r.vantage AS vantage,
    r.connection.community_id AS community_id,
    r.connection.translated.community_id AS translated_community_id,
    r.connection.netns AS netns,
    r.connection.local.address AS local_address,
    r.connection.local.port AS local_port,
    r.connection.remote.address AS remote_address,
    r.connection.remote.port AS remote_port,
    r.connection.initiator.address AS initiator_address,
    r.connection.initiator.port AS initiator_port,
    r.connection.responder.address AS responder_address,
    r.connection.responder.port AS responder_port,
    r.connection.ingress.name AS ingress,
    r.connection.egress.name AS egress,
    r.connection.tcp_state AS tcp_state,
    r.owner.pid AS owner_pid,
    r.owner.comm AS owner_comm,
    r.owner.unit AS owner_unit,
    r.owner.container_id AS owner_container_id,
    r.owner.pod_uid AS owner_pod_uid,
    r.owner.vm AS owner_vm,
    ifNull(parseDateTime64BestEffortOrNull(r.since, 9, 'UTC'), time) AS since,
    parseDateTime64BestEffortOrNull(r.deadline.time, 9, 'UTC') AS deadline,
    r.deadline.error AS deadline_error,
    dropped.data.reason AS drop_reason,
    place.data.site AS drop_site,
    place.data.hook AS drop_hook,
    arrayDistinct(arrayMap(
        rule -> concat(rule.family, ' ', rule.`table`, ' ', rule.chain, ': ', rule.text),
        arrayFlatten(arrayMap(e -> e.data.rules, arrayFilter(e -> e.kind = 'drop_place', r.evidence))))) AS drop_rules,
    arrayDistinct(r.evidence.kind) AS evidence,
    r.missing_evidence.kind AS missing_evidence,
    r.remedies[1].text AS remedy,
    r.remedies[1].command AS remedy_command,
    record
FROM connprobe.incoming
WHERE JSONExtractString(record, 'type') = 'finding' AND JSONExtractString(record, 'schema') = 'connprobe/1' AND isValidJSON(record);

CREATE MATERIALIZED VIEW IF NOT EXISTS connprobe.incoming_to_heartbeats ON CLUSTER '{cluster}' TO connprobe.heartbeats AS
WITH
    JSONExtract(record, 'Tuple(
        schema String, type String, time String, run_id String, seq UInt64,
        host Tuple(name String, boot_id String),
        watched_seconds Float64, open_cases UInt64, open_findings UInt64, findings UInt64, lost UInt64, undecodable UInt64,
        questions_waiting UInt64,
        cost Tuple(cpu_seconds Float64, rss_bytes Nullable(UInt64), bpf_seconds Nullable(Float64)),
        sinks Array(Tuple(sink String, dropped UInt64, failing Nullable(String))))') AS r
SELECT
    now('UTC') AS received,
    ifNull(parseDateTime64BestEffortOrNull(r.time, 9, 'UTC'), now64(9, 'UTC')) AS time,
    r.host.name AS host,
    toUUIDOrZero(r.host.boot_id) AS boot_id,
    toUUIDOrZero(r.run_id) AS run_id,
    r.seq AS seq,
    r.watched_seconds AS watched_seconds,
    r.open_cases AS open_cases,
    r.open_findings AS open_findings,
    r.findings AS findings,
    r.lost AS lost,
    r.undecodable AS undecodable,
    r.questions_waiting AS questions_waiting,
    r.cost.cpu_seconds AS cpu_seconds,
    r.cost.rss_bytes AS rss_bytes,
    r.cost.bpf_seconds AS bpf_seconds,
    arraySum(r.sinks.dropped) AS sinks_dropped,
    arrayMap(s -> concat(s.sink, ': ', assumeNotNull(s.failing)), arrayFilter(s -> s.failing IS NOT NULL, r.sinks)) AS sinks_failing
FROM connprobe.incoming
WHERE JSONExtractString(record, 'type') = 'heartbeat' AND JSONExtractString(record, 'schema') = 'connprobe/1' AND isValidJSON(record);
