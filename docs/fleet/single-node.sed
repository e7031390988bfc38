# Makes of schema.sql and views.sql, which are for a cluster, what a single server takes:
#   cat schema.sql views.sql | sed -f single-node.sed | clickhouse-client --multiquery
/ ENGINE = Distributed(/d
s/ ON CLUSTER '{cluster}'//
s/Replicated\([A-Za-z]*MergeTree\)/\1/
s/_local\>//
