#!/usr/bin/env python3
"""Recomputes ranking metrics from a recommendation file, knowing nothing of how it was made.

    recompute_metrics.py RECOMMENDATIONS.csv TARGETS.csv [K ...]

RECOMMENDATIONS has the columns user_id,item_id,score,rank; TARGETS has user_id,item_id, one line per user. Prints one
JSON object with hr@k, ndcg@k and mrr@k, to be compared with the report of `hardneg evaluate`. They agree when no target
shares its score with another item (`tied_targets` is 0 in the report) or the tie rule is `listed`, and the lists are at
least k long. Standard library only.
"""
import csv
import json
import math
import sys


def rows(path):
    # Latin-1 maps every byte to one character, so ids that are not UTF-8 survive.
    with open(path, newline="", encoding="latin-1") as file:
        yield from csv.DictReader(file)


def main(recommendations, targets, ks):
    wanted = {}
    for row in rows(targets):
        if row["user_id"] in wanted:
            sys.exit(f"user {row['user_id']!r} has two targets: lists by user cannot be scored")
        wanted[row["user_id"]] = row["item_id"]
    place, last = {}, {}
    for row in rows(recommendations):
        user, rank = row["user_id"], int(row["rank"])
        before, score = last.get(user, (0, math.inf))
        if rank != before + 1 or float(row["score"]) > score:
            sys.exit(f"the list of user {user!r} is out of order at rank {rank}")
        last[user] = (rank, float(row["score"]))
        if wanted.get(user) == row["item_id"]:
            if user in place:
                sys.exit(f"user {user!r} is shown the same item twice")
            place[user] = rank
    missing = [user for user in wanted if user not in last]
    if missing:
        sys.exit(f"{len(missing)} users with a target have no list, such as {missing[0]!r}")
    result = {"users": len(wanted)}
    for k in ks:
        ranks = [rank for rank in place.values() if rank <= k]
        result[f"hr@{k}"] = len(ranks) / len(wanted)
        result[f"ndcg@{k}"] = math.fsum(1 / math.log2(rank + 1) for rank in ranks) / len(wanted)
        result[f"mrr@{k}"] = math.fsum(1 / rank for rank in ranks) / len(wanted)
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], [int(k) for k in sys.argv[3:]] or [5, 10, 20])
