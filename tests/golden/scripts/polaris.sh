#!/bin/bash -l
#PBS -N hybrid_campaign
#PBS -A CampaignProject
#PBS -q prod
#PBS -l select=10:system=polaris
#PBS -l walltime=03:00:00
#PBS -l filesystems=home:eagle
#PBS -l place=scatter
#PBS -l singularity_fakeroot=true
#PBS -k doe
#PBS -j oe
#PBS -o /project/runs/hybrid_campaign-20261121-120000-1a2b/deploy/

# Written by RHAPSODY for the site polaris. One launch starts an agent on each node, and that of
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
job_next=''
job_link=${RHAPSODY_LINK:-1}
[[ $job_link =~ ^[1-9][0-9]{0,4}$ ]] || job_link=1
unset RHAPSODY_LINK
job_staged=''
job_id=${PBS_JOBID:-none}
job_restarts=0

# One process on each node.
job_each_node=(
  mpiexec
  -n 10
  --ppn 1
  --cpu-bind
  none
)

job_send() {
  [[ $1 == INT ]] && set -- TERM # what runs in the background ignores SIGINT
  kill -s "$1" "$job_payload" 2>/dev/null
}

job_next_link() {
  job_next=$(qsub -W depend="afterany:$job_id" -v RHAPSODY_LINK="$((job_link + 1))" /project/runs/hybrid_campaign-20261121-120000-1a2b/deploy/job.sh)
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
  [[ -z $job_staged ]] || timeout 60 "${job_each_node[@]}" rm -f -- "$job_staged" ||
    job_say "$job_staged may be left on the nodes"
}

# 75 says that the time was over before all was done.
job_finish() {
  trap '' USR1 TERM INT # it ends already; a job that goes back to the queue gets SIGTERM, its commands too
  job_record ended "$1"
  job_clean_up
  if (($1 == 75)); then
    if ((job_link + job_restarts >= 2)); then
      job_say 'not all is done, and this was the last of 2 links: go on with rhapsody run --resume'
    elif job_next_link; then
      [[ $job_next =~ ^[A-Za-z0-9._-]+$ ]] || job_next=''
      job_record continued 75 "$job_next"
      job_say 'not all is done: the next link is in the queue'
    else
      job_say 'not all is done, and the next link could not be queued: go on with rhapsody run --resume'
    fi
  fi
  exit "$1"
}

trap job_clean_up EXIT
trap 'job_on_signal USR1' USR1
trap 'job_on_signal TERM' TERM
trap 'job_on_signal INT' INT
job_record started null

cd -- /home/someone/campaigns || job_fail 'the working folder /home/someone/campaigns is not there'

set +u # module is a function that does not stand it
module use /soft/modulefiles || job_fail 'module use /soft/modulefiles failed'
module unload xalt
module load spack-pe-base || job_fail 'the module spack-pe-base cannot be loaded'
module load apptainer || job_fail 'the module apptainer cannot be loaded'
module load cray-mpich-abi || job_fail 'the module cray-mpich-abi cannot be loaded'
set -u

job_image=/project/images/rhapsody.sif
command -v apptainer >/dev/null ||
  job_fail 'there is no apptainer on this node; if a module has it, add --set '"'"'modules.load=[NAME]'"'"', or take another --engine'
[[ -r $job_image ]] ||
  job_fail "the image $job_image cannot be read on this node, $HOSTNAME; put it on a file system that all nodes see"
job_staged=/local/scratch/rhapsody-${job_id%%.*}-$job_link.sif
"${job_each_node[@]}" cp -f -- "$job_image" "$job_staged"
job_code=$?
((job_code == 0)) || job_fail "the image could not be copied to $job_staged on the nodes (exit code $job_code): is there room?"
job_image=$job_staged

# For what is launched only: this script's own commands do not see it.
job_environment() {
  export TMPDIR=/tmp
  export PATH="/opt/pbs/bin:${PATH:-}"
  export RHAPSODY_SITE=polaris
  export RHAPSODY_DEADLINE=$((job_began_s + 10800))
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
    --bind=/opt
    --bind=/var/run/palsd
    --bind=/home/someone/campaigns
    --bind=/project/runs/hybrid_campaign-20261121-120000-1a2b
    --bind=/local/scratch
    --fakeroot
    --nv
    "$job_image"
    sh -c 'rm -f -- "$0"; exec "$@"' "$job_staged" # it is open: nothing can be left now, whatever kills the job
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
  sleep 10500 &
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
