#!/usr/bin/env bash
# grain 0.2.18: one epoch of a DataLoader over 7 records in 4 shards gives 4 of them, although drop_remainder=False
# asks for all. A MapDataset cut by a stride gives every record once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check grain==0.2.18
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import grain.python as grain

RECORDS = 7
SHARDS = 4


class Numbers:
    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        return int(index)


def shard_of_loader(number):
    sampler = grain.IndexSampler(
        num_records=RECORDS,
        shard_options=grain.ShardOptions(shard_index=number, shard_count=SHARDS, drop_remainder=False),
        shuffle=False,
        num_epochs=1,
        seed=0,
    )
    return list(grain.DataLoader(data_source=Numbers(), sampler=sampler, worker_count=0))


loaded = [shard_of_loader(number) for number in range(SHARDS)]
strided = [list(grain.MapDataset.range(RECORDS)[number::SHARDS]) for number in range(SHARDS)]
print("grain", importlib.metadata.version("grain"))
print("DataLoader, four shards of seven records, drop_remainder=False:", loaded)
print("MapDataset[k::4]:", strided)
assert sorted(sum(loaded, [])) == [0, 2, 4, 6], "changed: the DataLoader gives other records now"
assert sorted(sum(strided, [])) == list(range(RECORDS)), "changed: the strided data set gives other records now"
print("as found: records 1, 3 and 5 are in no shard of the DataLoader, and nothing says so")
PYTHON
