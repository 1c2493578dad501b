"""What Slurm says when it does not take a job.

Source: the texts of slurm_strerror(3) in Slurm 22.05.8, and names of limits, https://slurm.schedmd.com/resource_limits.html,
checked 2026-11.
"""

from __future__ import annotations

from rhapsody.deploy.schedulers.ask import Refusal

PASSING = (
    Refusal(
        r"MaxSubmit|SubmitJobsLimit|MaxJobCount|too many jobs|job count",
        "you have as many jobs in the queue as you may",
        "Wait until some have ended, or cancel some: squeue --me",
    ),
    Refusal(
        r"unable to contact slurm controller|connect failure|socket timed out|communication connection|zero bytes were"
        r"|standby mode|try again|temporarily|connection refused|connection timed out|resource temporarily",
        "its controller does not answer",
        "Nothing is wrong with what you asked for; try again in some minutes",
    ),
    Refusal(
        r"submissions disabled|presently disabled|partition in down state|not available now|inactive or drain"
        r"|not usable now|required node not available|maintenance reservation",
        "what was asked for is closed at the moment",
        "Try again later, or choose another queue: sinfo shows those that are up",
    ),
    Refusal(
        r"i/o error writing script|slurm internal error|unable to connect to database",
        "it has trouble of its own",
        "Try again in some minutes; if it stays so, tell the site",
    ),
)
"""Refusals that may be over soon."""

SPEC = (
    Refusal(
        r"invalid account|breached requested QOS usage|InvalidAccount",
        "the account is wrong, may not be used in this queue, or is used up",
        "Choose another with -A; `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours",
    ),
    Refusal(
        r"invalid qos|InvalidQOS",
        "the quality of service (QOS) is not one that you may use with this account and queue",
        "Choose another queue with -q; `sacctmgr show assoc user=$USER format=account,partition,qos` lists yours",
    ),
    Refusal(
        r"invalid partition|no partition specified|not permitted to use this partition|multiple partition job",
        "there is no such queue (Slurm's partition), or you may not use it",
        "Choose another with -q; `sinfo -s` lists those that there are",
    ),
    Refusal(
        r"time limit is invalid|invalid time|time specification|MaxWall|TimeLimit",
        "the time asked for is more than this queue gives",
        "Ask for less with --walltime, or choose another queue with -q; `sinfo -o '%P %l'` shows the limits",
    ),
    Refusal(
        r"requested reservation|reservation is invalid",
        "there is no such reservation, it is over, or it is not for you",
        "Leave it out, or choose another: scontrol show reservation",
    ),
    Refusal(
        r"invalid (preferred )?feature",
        "no node has the features asked for as constraint",
        "Choose others; `sinfo -o '%P %f'` lists those that there are",
    ),
    Refusal(
        r"generic resource|invalid gres|trackable resource|insufficient gres|GRES option",
        "no node has the GPUs asked for",
        "Choose another queue with -q or fewer GPUs per node; `sinfo -o '%P %G'` shows what there is",
    ),
    Refusal(
        r"dependency problem|circular job dependency",
        "there is no such job to wait for",
        "Correct or leave out the job id after which this one is to begin",
    ),
    Refusal(
        r"node count specification|valid node count|more processors requested|requested node configuration"
        r"|more tasks than available|task count spec|cpu count spec|memory required by task|node limit|MaxNode|MinNode"
        r"|requested nodes not in",
        "no nodes of this queue can give what was asked for: number of nodes, cores, memory or GPUs per node",
        "Ask for less, or choose another queue with -q; `sinfo -o '%P %D %c %m %G'` shows what there is",
    ),
    Refusal(
        r"violates accounting/qos policy|QOS\w*(Limit|Per)|Assoc\w*Limit",
        "it is more than your account or QOS allows: number of jobs, nodes or time",
        "Ask for less, choose another queue with -q, or wait until other jobs have ended:"
        " `sacctmgr show qos format=name,maxwall,maxtres,maxsubmit` shows limits",
    ),
    Refusal(
        r"unrecognized option|invalid option|invalid --|ambiguous option|requires an argument|unknown option",
        "it does not know an option of the script",
        "Take it out of the options of the site's profile or of your request",
    ),
    Refusal(
        r"unable to open file|does not look like a batch script|batch script is empty|pathname of a file",
        "it cannot read the script",
        "See that the script is there and readable where you submit",
    ),
    Refusal(
        r"permission denied|invalid user id|invalid group id|user not found|not permitted",
        "you may not submit jobs here",
        "Ask the site whether your account is active on this machine",
    ),
    Refusal(
        r"unspecified error|job_submit|lua",
        "it breaks a rule of this site",
        "What it said should name the rule; the site's user guide has them",
    ),
)
"""Refusals that come again with the same script."""
