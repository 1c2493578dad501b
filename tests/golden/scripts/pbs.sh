#!/bin/bash -l
#PBS -N hybrid_campaign
#PBS -A abc123
#PBS -q workq
#PBS -l select=2
#PBS -l walltime=01:00:00
#PBS -j oe
#PBS -o /project/runs/hybrid_campaign-20261121-120000-1a2b/deploy/

# Written by RHAPSODY for the site pbs. One launch starts an agent on each node, and that of
# the first node runs the campaign, whose exit code is the job's.
# shellcheck disable=SC2016,SC2329 # values are literal; traps call functions
set -uo pipefail
umask 077

job_began_s=$(date +%s)
job_records=/project/runs/hybrid_campaign-20261121-120000-1a2b/deploy/jobs
job_payload=''
job_timer=''
job_signalled=''
job_cleaned=''
job_link=${RHAPSODY_LINK:-1}
[[ $job_link =~ ^[1-9][0-9]{0,4}$ ]] || job_link=1
unset RHAPSODY_LINK
job_id=${PBS_JOBID:-none}
job_restarts=0

# One process on each node.
job_each_node=(
  mpiexec
  -n 2
  --ppn 1
)

job_send() {
  [[ $1 == INT ]] && set -- TERM # what runs in the background ignores SIGINT
  kill -s "$1" "$job_payload" 2>/dev/null
}

job_say() {
  printf 'rhapsody: %s\n' "$*" >&2
}

# What happened to this job, a line of JSON each: who asks later whether it ended by itself finds it here.
job_record() {
  printf '{"time_s":%s,"job_id":"%s","link":%s,"restart":%s,"event":"%s","exit_code":%s,"next_job_id":"%s"}\n' \
    "$(date +%s.%3N)" "$job_id" "$job_link" "$job_restarts" "$1" "$2" "${3:-}" >>"$job_records" ||
    job_say "cannot write to $job_records"
}

job_fail() {
  job_say "$1"
  job_record failed 1
  exit 1
}

# bash runs this at once only while it waits for a process in the background.
job_on_signal() {
  job_signalled=$1
  job_payload=${job_payload:-${!:-}} # it may have come right after the start
  if [[ -n $job_payload ]]; then
    job_say "got SIG$1, and hands it on to the campaign"
    job_send "$1"
  elif [[ $1 == USR1 ]]; then
    job_say 'the time is over before the campaign has begun'
    job_finish 75
  else
    job_say "got SIG$1 before the campaign has begun"
    job_finish 143
  fi
}

job_clean_up() {
  [[ -z $job_cleaned ]] || return 0
  job_cleaned=yes
  [[ -z $job_timer ]] || kill "$job_timer" 2>/dev/null
}

# 75 says that the time was over before all was done.
job_finish() {
  trap '' USR1 TERM INT # it ends already; a job that goes back to the queue gets SIGTERM, its commands too
  job_record ended "$1"
  job_clean_up
  exit "$1"
}

trap job_clean_up EXIT
trap 'job_on_signal USR1' USR1
trap 'job_on_signal TERM' TERM
trap 'job_on_signal INT' INT
job_record started null

cd -- /home/someone/campaigns || job_fail 'the working folder /home/someone/campaigns is not there'

# For what is launched only: this script's own commands do not see it.
job_environment() {
  export RHAPSODY_SITE=pbs
  export RHAPSODY_DEADLINE=$((job_began_s + 3600))
}

job_campaign=(
  rhapsody
  run
  hybrid_campaign.py
  --
  --ligands
  500
)
if [[ -e /project/runs/hybrid_campaign-20261121-120000-1a2b/journal ]]; then # it ran before: go on
  job_campaign=(
    rhapsody
    run
    --resume
    /project/runs/hybrid_campaign-20261121-120000-1a2b
  )
fi

job_start() {
  job_environment
  local -a job_words=(
    "${job_each_node[@]}"
    rhapsody-node
    --run-dir /project/runs/hybrid_campaign-20261121-120000-1a2b
    --
    "${job_campaign[@]}"
  )
  exec "${job_words[@]}"
}

job_start &
job_payload=$!

# Says that the end is near, since the batch system does not.
(
  sleep 3300 &
  job_sleep=$!
  trap 'kill "$job_sleep" 2>/dev/null' TERM
  wait "$job_sleep" && kill -s USR1 "$$"
) &
job_timer=$!

# A signal ends `wait`, not the campaign: then wait again.
while :; do
  job_signalled=''
  wait "$job_payload"
  job_code=$?
  [[ -n $job_signalled ]] || break
done
job_finish "$job_code"
