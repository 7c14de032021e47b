#!/bin/sh
# One trial for `policysearch run DIR -- ./rig_trial.sh {kp} {kd}`: the last line is its cost.
python "$(dirname "$0")/rig.py" trial "$1" "$2"
case $? in
0) ;;
3) exit 3 ;;  # the gains' doing: more overshoot than is safe
*) exit 75 ;; # the rig's doing: run it again
esac
