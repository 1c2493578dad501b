#!/bin/bash -l
#PBS -N hybrid_campaign
#PBS -A CampaignProject
#PBS -q prod
#PBS -l select=256
#PBS -l walltime=06:00:00
#PBS -l filesystems=home:flare
#PBS -l place=scatter
#PBS -k doe
#PBS -j oe
#PBS -o /project/runs/hybrid_campaign-20261121-120000-1a2b/deploy/

# Written by RHAPSODY for the site aurora. One launch starts an agent on each node, and that of
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
  -n 256
  --ppn 1
  --cpu-bind
  none
)

job_send() {
  [[ $1 == INT ]] && set -- TERM # what runs in the background ignores SIGINT
  kill -s "$1" "$job_payload" 2>/dev/null
}

job_hosts() {
  sort -u -- "${PBS_NODEFILE:-/dev/null}"
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

set +u # module is a function that does not stand it
module load apptainer || job_fail 'the module apptainer cannot be loaded'
module load xpu-smi || job_fail 'the module xpu-smi cannot be loaded'
set -u

job_image=/project/images/rhapsody.sif
command -v apptainer >/dev/null ||
  job_fail 'there is no apptainer on this node; if a module has it, add --set '"'"'modules.load=[NAME]'"'"', or take another --engine'
[[ -r $job_image ]] ||
  job_fail "the image $job_image cannot be read on this node, $HOSTNAME; put it on a file system that all nodes see"

# For what is launched only: this script's own commands do not see it.
job_environment() {
  local job_names
  job_names=$(job_hosts | paste -sd, -)
  export http_proxy=http://proxy.alcf.anl.gov:3128 https_proxy=http://proxy.alcf.anl.gov:3128
  export HTTP_PROXY=$http_proxy HTTPS_PROXY=$https_proxy
  export no_proxy='localhost,127.0.0.1,*.cm.aurora.alcf.anl.gov',$HOSTNAME${job_names:+,$job_names}
  export NO_PROXY=$no_proxy
  unset all_proxy ALL_PROXY # socks:// there breaks HTTP clients
  export TMPDIR=/tmp
  export ZE_FLAT_DEVICE_HIERARCHY=FLAT
  export RHAPSODY_SITE=aurora
  export RHAPSODY_DEADLINE=$((job_began_s + 21600))
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
    apptainer -q exec
    --pwd=/home/someone/campaigns
    --bind=/home/someone/campaigns
    --bind=/project/runs/hybrid_campaign-20261121-120000-1a2b
    "$job_image"
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
  sleep 21300 &
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
case $job_code in
  125 | 126 | 127 | 255) # of the engine, not of the campaign
    [[ -e /project/runs/hybrid_campaign-20261121-120000-1a2b/journal ]] ||
      job_fail 'the container did not start; what apptainer says of it is above. Is it an image of RHAPSODY, for this kind of machine? Look: rhapsody image inspect /project/images/rhapsody.sif'" ($HOSTNAME is $(uname -m))"
    ;;
esac
job_finish "$job_code"
