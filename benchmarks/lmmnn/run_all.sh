#!/bin/sh
# Every table of benchmarks/lmmnn at full size, in the order of what matters most; logs go to build/benchmarks.
#   sh benchmarks/lmmnn/run_all.sh FOLDER [PYTHON]
# FOLDER holds the real data as .csv.gz files. One thread a process. Minutes are estimates for one 3 GHz core that has
# nothing else to do; SEEDS=1 takes a third of the simulations' time.
set -u
data=${1:?folder of the real data}
python=${2:-.venv/bin/python}
seeds=${SEEDS:-3}
here=$(dirname "$0")
out=build/benchmarks
mkdir -p "$out"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

table() { # name, then arguments of tables.py
  name=$1
  shift
  echo "$(date +%H:%M) $name"
  "$python" -W ignore "$here/tables.py" --seeds "$seeds" --show error estimates time "$@" >"$out/$name.txt" 2>"$out/$name.log"
}
real() { # name, then arguments of real.py
  name=$1
  shift
  echo "$(date +%H:%M) $name"
  "$python" -W ignore "$here/real.py" --data "$data" "$@" >"$out/$name.txt" 2>"$out/$name.log"
}

# What the package promises: ours with its default settings
table table1 --table 1                                                    # 9 cells x 3 seeds x 15 s      8 min
table table2 --table 2 --cells 0.3,0.3,0.3 3,3,3                          # 2 x 3 x 25 s                   3 min
table table2-crossed --table 2 --crossed --cells 0.3,0.3,0.3 3,3,3        # with 6,000 dense effects       5 min
table table3-random --table 3 --mode random --methods ours,known --cells 0.3,0.3,0.3 3,3,3               # 4 min
table table3-future --table 3 --mode future --methods ours,known --cells 0.3,0.3,0.3 3,3,3               # 4 min
table table4-small --table 4 --methods ours,known \
  --cells 10,0.1,100 1,1,100 10,0.1,1000 1,1,1000 10,1,1000 1,0.1,1000    # 6 x 3 x 30 s                  10 min
table table1-zw --table 1 --embedding --cells 0.1,10000 1,10000 1,1000                                   # 4 min
real insteval insteval --methods ours,lme4,xgboost,lightgbm,gpboost,ignore,te                            # 15 min
real chickweight chickweight                                                                             # 4 min
real chickweight-later chickweight --later                                                               # 4 min
real chickweight-future chickweight --future                                                             # 1 min
real egsingle egsingle                                                                                   # 12 min
real egsingle-later egsingle --later                                                                     # 12 min
real egsingle-future egsingle --future                                                                   # 3 min
real spotify spotify --methods ours,lme4,xgboost,lightgbm,gpboost,te                                     # 40 min
table table4-large --table 4 --methods ours --cells 10,0.1,10000 1,1,10000                               # 20 min
table table5-small --table 5 --places 1000 --methods ours --cells 0.3,0.3,0.3 3,3,3                      # 6 min
table table5 --table 5 --methods ours --cells 0.3,0.3,0.3 3,3,3                                          # hours
real county county                                                                                       # 10 min
real housing housing --methods ours,xgboost,lightgbm,gpboost,ignore                                      # 40 min

# Everybody else on the same data, one seed
seeds=1
table table1-peers --table 1 --cells 0.1,1000 1,1000 10,10000 \
  --methods ours,ignore,ohe,embedding,te,lme4,menets,lmmnn,gpboost,lightgbm                              # 45 min
table table2-peers --table 2 --cells 3,3,3 --methods ours,ignore,ohe,embedding,te,linear,gpboost         # 15 min
table table3-peers --table 3 --cells 0.3,0.3,0.3 3,3,3 --methods ours,ignore,ohe,embedding,lme4,lstm     # 30 min
table table4-peers --table 4 --cells 10,0.1,1000 1,1,1000 --methods ours,ohe,embedding,svdkl,lmmnn,lmmnn_e  # 60 min
table table5-peers --table 5 --cells 3,3,3 --methods ignore,ohe,embedding,linear                         # 10 min
table table1-zw-peers --table 1 --embedding --cells 1,10000 --methods ours,embed,lmmnn,ohe,embedding,te  # 30 min
# The convolutional baseline takes 25 ms an image and step on a CPU: a small trial only
table table4-cnn --table 4 --cells 10,0.1,100 --scale 0.05 --methods ours,cnn                            # 50 min
