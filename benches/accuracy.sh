#!/usr/bin/env bash
# Trains the models whose published figures a correct build has to reach, and keeps what a reader needs to repeat them.
#
#   benches/accuracy.sh DATA OUT NAME SEED...
#
# DATA   folder with amazon-beauty/beauty.tsv.gz and ml-1m/ml-1m_sas.txt.gz (not part of this repository)
# OUT    folder of results, e.g. benches/runs/2026-11-21-cpu; each run leaves NAME-seedN/{config.resolved.toml,
#        manifest.json, report.json, metrics.jsonl} there
# NAME   beauty-bce | beauty-softmax | ml1m-bce | ml1m-softmax | ml1m-recipe | ml1m-sampled; `recipe`: the full softmax in the encoder
#        that the published figure was made with
#
# Published (full ranking, history filtered, leave-one-out; HR@10 / NDCG@10): Beauty BCE .0607/.0321, softmax .0935/.0567
# (ELECRec's tables), sampled softmax .0921/.0531 (RecTools); ML-1M BCE .250/.134, softmax .3152/.1821 (Klenitskiy and
# Vasilev, RecSys 2023).
set -eu
data=$1 out=$2 name=$3
shift 3
hardneg=${HARDNEG:-target/release/hardneg}
beauty=(model.max_len=50 train.batch_size=256 model.dropout=0.5)
ml1m=(model.max_len=200 train.batch_size=128 model.dropout=0.1)
bce=(loss.kind=bce sampler.preset=uniform)
case $name in
beauty-bce) log=amazon-beauty/beauty.tsv.gz settings=("${beauty[@]}" "${bce[@]}") ;;
beauty-softmax) log=amazon-beauty/beauty.tsv.gz settings=("${beauty[@]}" loss.kind=softmax) ;;
ml1m-bce) log=ml-1m/ml-1m_sas.txt.gz settings=("${ml1m[@]}" "${bce[@]}" model.dropout=0.2) ;;
ml1m-softmax) log=ml-1m/ml-1m_sas.txt.gz settings=("${ml1m[@]}" loss.kind=softmax) ;;
ml1m-recipe) log=ml-1m/ml-1m_sas.txt.gz settings=("${ml1m[@]}" loss.kind=softmax model.norm=sasrec model.positions=start
  model.init_weights=attention optim.beta2=0.999) ;;
ml1m-sampled) log=ml-1m/ml-1m_sas.txt.gz settings=("${ml1m[@]}" loss.kind=sampled_softmax sampler.preset=uniform sampler.negatives=256) ;;
*) echo "unknown run $name" >&2 && exit 2 ;;
esac
for seed in "$@"; do
  run=$(mktemp -d)
  sets=()
  for s in "${settings[@]}" ${EXTRA:-}; do sets+=(--set "$s"); done
  "$hardneg" train "$data/$log" --out "$run" --seed "$seed" "${sets[@]}" --progress plain
  mkdir -p "$out/$name-seed$seed"
  for file in config.resolved.toml manifest.json report.json metrics.jsonl; do
    cp "$run/$file" "$out/$name-seed$seed/"
  done
  rm -r "$run"
done
