#!/bin/sh
# Checks the messages of a range of commits, as the hook commit-msg does: scripts/check_commits.sh main..HEAD
set -eu
folder=$(dirname "$0")
failed=0
for commit in $(git rev-list --reverse --no-merges "$1"); do
    git log -1 --format=%B "$commit" | python3 "$folder/hooks/commit-msg" || {
        echo "  in $(git log -1 --format='%h %s' "$commit")" >&2
        failed=1
    }
done
exit "$failed"
