#!/bin/sh
# Makes the feed's folder for scoreline's user and drops the samples into it, each under its name only once it is whole. A sample that was
# scored before ends as skipped, as any input does that comes twice.
set -eu
feed=/srv/scoreline/churn
mkdir -p "$feed/in"
for sample in /samples/*.csv; do
    name=${sample##*/}
    cp "$sample" "$feed/in/$name.part"
    mv "$feed/in/$name.part" "$feed/in/$name"
done
chown -R 65532:65532 "$feed"
