#!/bin/sh
# One trial for `policysearch run DIR -- ./rig_trial.sh {kp} {kd}`: the last line is its cost.
trap 'echo "stopped" >&2; exit 143' TERM # asked to end: here a real rig switches its drive off
python "$(dirname "$0")/rig.py" trial "$1" "$2"
code=$?
case $code in
0) ;;
3) exit 3 ;;                 # the gains' doing: more overshoot than is safe
126 | 127) exit "$code" ;;   # the script's: no such program
*) exit 75 ;;                # the rig's doing: run it again
esac
