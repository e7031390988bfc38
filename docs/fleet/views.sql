-- What is asked of the tables in schema.sql. Views keep nothing: all can be made anew at any time.

-- How each host does, by the latest record of each type.
CREATE OR REPLACE VIEW connprobe.hosts ON CLUSTER '{cluster}' AS
WITH
    INTERVAL 5 MINUTE AS silent_after,
    JSONExtract(record, 'Tuple(
        degraded Bool, kernel_release String, hooks Array(Tuple(hook String, status String)),
        watched_seconds Float64, lost UInt64, open_findings UInt64,
        sinks Array(Tuple(sink String, dropped UInt64, failing Nullable(String))))') AS r
SELECT
    host,
    multiIf(
        stopped_at > greatest(maxIf(time, type = 'heartbeat'), maxIf(time, type = 'coverage')), 'stopped',
        greatest(last_heartbeat, last_coverage) < now() - silent_after, 'silent',
        notEmpty(broken_hooks), 'blind',
        degraded, 'degraded',
        lost > 0 OR notEmpty(sinks_failing), 'losing',
        'ok') AS status,
    -- By this store's clock.
    maxIf(received, type = 'heartbeat') AS last_heartbeat,
    maxIf(received, type = 'coverage') AS last_coverage,
    -- By the host's: when its daemon was last stopped, and since when its present run watches.
    maxIf(time, type = 'summary') AS stopped_at,
    greatest(
        maxIf(time, type = 'coverage' AND seq = 0),
        maxIf(time - toIntervalMillisecond(toInt64(r.watched_seconds * 1000)), type = 'heartbeat')) AS watching_since,
    -- How late the latest heartbeat came; below zero, the host's clock is ahead.
    maxIf(dateDiff('second', time, toDateTime64(received, 9, 'UTC')), type = 'heartbeat') AS late_seconds,
    argMaxIf(run_id, time, type IN ('heartbeat', 'coverage', 'summary')) AS run_id,
    maxIf(r.kernel_release, type = 'coverage') AS kernel_release,
    maxIf(r.degraded, type = 'coverage') AS degraded,
    arrayFlatten(groupArrayIf(arrayMap(h -> h.hook, arrayFilter(h -> h.status = 'broken', r.hooks)), type = 'coverage')) AS broken_hooks,
    maxIf(r.open_findings, type = 'heartbeat') AS open_findings,
    maxIf(r.lost, type = 'heartbeat') AS lost,
    maxIf(arraySum(r.sinks.dropped), type = 'heartbeat') AS sinks_dropped,
    arrayFlatten(groupArrayIf(
        arrayMap(s -> concat(s.sink, ': ', assumeNotNull(s.failing)), arrayFilter(s -> s.failing IS NOT NULL, r.sinks)),
        type = 'heartbeat')) AS sinks_failing
FROM connprobe.last_records FINAL
GROUP BY host;

-- Each finding of the last 30 days by its latest record, with what has become of it:
--   open         it is not over
--   closed       it is over; `outcome` says how
--   left_open    its daemon was stopped while it was open
--   abandoned    its daemon has begun anew since, without a last word: it tells anew what is still so, as another finding, or where it
--                keeps its findings (`state_dir`) as the same
--   host_silent  nobody knows: no heartbeat comes any more
CREATE OR REPLACE VIEW connprobe.current_findings ON CLUSTER '{cluster}' AS
SELECT
    f.*,
    h.status AS host_status,
    multiIf(
        f.state = 'closed', 'closed',
        f.state = 'left_open', 'left_open',
        h.host != '' AND f.run_id != h.run_id, 'abandoned',
        h.status IN ('silent', 'stopped'), 'host_silent',
        'open') AS status
FROM
(
    SELECT * EXCEPT (record)
    FROM connprobe.findings FINAL
    WHERE received > now() - INTERVAL 30 DAY
        -- The highest number of the latest run: a wall clock may be set, and runs count anew.
        AND (finding_id, run_id, seq) GLOBAL IN (
            SELECT finding_id, argMax(run_id, last), argMax(highest, last)
            FROM
            (
                SELECT finding_id, run_id, max(seq) AS highest, max(time) AS last
                FROM connprobe.findings
                WHERE received > now() - INTERVAL 30 DAY
                GROUP BY finding_id, run_id
            )
            GROUP BY finding_id)
) AS f
GLOBAL LEFT JOIN (SELECT host, status, run_id FROM connprobe.hosts) AS h ON f.host = h.host;

CREATE OR REPLACE VIEW connprobe.open_findings ON CLUSTER '{cluster}' AS
SELECT * FROM connprobe.current_findings WHERE status IN ('open', 'host_silent');

-- One row for each connection in limbo, now or within the last day (`lately`), however many hosts have told of it: what each says, and where
-- it is dropped.
--
-- Findings are about the same connection when their Community ID is the same and they are about the same time: one begins at the latest
-- five minutes (`apart`) after the others have ended. That is more than clocks differ, and less than it mostly takes until the same
-- two ports meet again. Where a forwarder translates addresses, its finding names the connection by both names, and those who know
-- it by the second are counted to the first; also where that happens twice on the way.
CREATE OR REPLACE VIEW connprobe.connections ON CLUSTER '{cluster}' AS
WITH
    INTERVAL 1 DAY AS lately,
    INTERVAL 5 MINUTE AS apart,
    lives AS
    (
        SELECT *, least(since, time) AS begin, if(status IN ('open', 'host_silent'), greatest(now64(9, 'UTC'), time), time) AS end
        FROM connprobe.current_findings
        WHERE end > now() - lately
    ),
    translations AS
    (
        SELECT translated_community_id AS name, community_id AS first_name, begin, end
        FROM lives
        WHERE translated_community_id NOT IN ('', community_id)
    ),
    -- What stands before a second translation is the first of all names; one of the same name at another time is not.
    names AS
    (
        SELECT name, argMax(first_name, is_before) AS first_name, begin, end
        FROM
        (
            SELECT name, first_name, first_name AS near_name, begin, end, 0 AS is_before FROM translations
            UNION ALL
            SELECT near.name AS name, far.first_name AS first_name, near.first_name AS near_name, near.begin AS begin, near.end AS end, 1 AS is_before
            FROM translations AS near
            GLOBAL INNER JOIN translations AS far ON near.first_name = far.name
            WHERE near.begin <= far.end + apart AND far.begin <= near.end + apart
        )
        GROUP BY name, near_name, begin, end
    ),
    first_names AS
    (
        SELECT l.finding_id AS finding_id, any(n.first_name) AS first_name
        FROM lives AS l
        GLOBAL INNER JOIN names AS n ON l.community_id = n.name
        WHERE l.begin <= n.end + apart AND n.begin <= l.end + apart
        GROUP BY finding_id
    ),
    named AS
    (
        SELECT l.*, if(n.first_name = '', l.community_id, n.first_name) AS connection
        FROM lives AS l
        GLOBAL LEFT JOIN first_names AS n ON l.finding_id = n.finding_id
    ),
    begun AS
    (
        SELECT
            *,
            begin > apart + max(end) OVER (PARTITION BY connection ORDER BY begin, finding_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                AS is_another
        FROM named
    ),
    numbered AS
    (
        SELECT *, sum(is_another) OVER (PARTITION BY connection ORDER BY begin, finding_id) AS episode
        FROM begun
    )
SELECT
    connection AS community_id,
    min(begin) AS begin,
    max(end) AS end,
    countIf(status IN ('open', 'host_silent')) AS open_findings,
    arraySort(groupUniqArray(host)) AS hosts,
    countIf(vantage = 'endpoint') AS ends,
    -- Its two ends, whoever has told of them.
    arraySort(groupUniqArrayArray(arrayFilter(a -> a != '', [
        if(local_address = '', '', concat(local_address, ' ', toString(local_port))),
        if(remote_address = '', '', concat(remote_address, ' ', toString(remote_port))),
        if(initiator_address = '', '', concat(initiator_address, ' ', toString(initiator_port))),
        if(responder_address = '', '', concat(responder_address, ' ', toString(responder_port)))]))) AS addresses,
    arraySort(groupUniqArray(concat(
        host, if(vantage = 'forwarder', ' (forwards it): ', ': '), verdict, '/', cause, ', ', confidence, ', ',
        if(status = 'closed', outcome, status)))) AS told,
    arraySort(groupUniqArrayIf(concat(
        host, ': ', if(drop_reason = '', '', concat(drop_reason, ' ')),
        multiIf(notEmpty(drop_rules), concat('by ', arrayStringConcat(drop_rules, ' / ')),
                drop_site != '', concat('in ', drop_site, ' ', drop_hook), '')),
        drop_reason != '' OR drop_site != '')) AS dropped_on,
    arraySort(groupUniqArrayIf(
        concat(host, ' ', if(owner_unit != '', owner_unit, owner_comm), ' (pid ', toString(owner_pid), ')'), owner_pid != 0)) AS owners,
    min(deadline) AS first_deadline,
    groupArray(finding_id) AS finding_ids
FROM numbered
GROUP BY connection, episode;

-- Connections that more than one host has told of.
CREATE OR REPLACE VIEW connprobe.seen_from_several_hosts ON CLUSTER '{cluster}' AS
SELECT * FROM connprobe.connections WHERE length(hosts) > 1;

-- What goes wrong most, by day, peer and owner. The lower of the two ports is taken for the service's. One connection is counted once a row.
CREATE OR REPLACE VIEW connprobe.causes_by_day ON CLUSTER '{cluster}' AS
SELECT
    toDate(since) AS day,
    verdict,
    cause,
    vantage,
    if(vantage = 'forwarder', responder_address, remote_address) AS peer,
    if(vantage = 'forwarder', least(initiator_port, responder_port), least(local_port, remote_port)) AS service_port,
    multiIf(owner_unit != '', owner_unit, owner_vm != '', owner_vm, owner_pod_uid != '', owner_pod_uid, owner_comm) AS owner,
    uniqExact(community_id) AS connections,
    uniqExact(host) AS hosts,
    countIf(confidence = 'confirmed') AS confirmed,
    countIf(outcome IN ('recovered', 'closed_normally')) AS resolved
FROM connprobe.current_findings
GROUP BY day, verdict, cause, vantage, peer, service_port, owner;

-- Which rule, or what else of which host, throws segments away that somebody waits for.
CREATE OR REPLACE VIEW connprobe.drops_by_rule ON CLUSTER '{cluster}' AS
SELECT
    host,
    drop_reason,
    drop_site,
    drop_hook,
    -- Where there are several, each of them or one of them.
    drop_rules AS rules,
    uniqExact(community_id) AS connections,
    min(since) AS first,
    max(time) AS last,
    countIf(status IN ('open', 'host_silent')) AS open_findings
FROM connprobe.current_findings
WHERE drop_reason != '' OR drop_site != ''
GROUP BY host, drop_reason, drop_site, drop_hook, drop_rules;

-- Records that have not arrived: numbers that are missing between those that are here, of what was received within the last day, run by run.
-- A `loss` record of a sink has the number of a record that it lost.
CREATE OR REPLACE VIEW connprobe.missing_records ON CLUSTER '{cluster}' AS
SELECT
    host,
    boot_id,
    run_id,
    min(time) AS first,
    max(time) AS last,
    max(seq) + 1 - min(seq) - uniqExact(seq) AS missing
FROM connprobe.records
WHERE received > now() - INTERVAL 1 DAY AND type != '' AND NOT (type = 'loss' AND JSONExtractString(record, 'place') = 'sink')
GROUP BY host, boot_id, run_id
HAVING missing > 0;

-- Lines that came in and are no records.
CREATE OR REPLACE VIEW connprobe.rejected ON CLUSTER '{cluster}' AS
SELECT received, record AS line FROM connprobe.records WHERE type = '';
