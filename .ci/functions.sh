# What `.ci/run` is made of. tests/test_ci.py plants a fault for each of them.

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# Runs the README's command that holds this word, as it stands there. That there is none is a
# failure too: an empty command would pass.
readme() {
    local command
    command=$(grep -m 1 "^python3 -m venv .*$1" README.md) || {
        printf 'the README has no command with %s\n' "$1" >&2
        return 1
    }
    bash -c "$command"
}

# Starts a function of this name beside what follows; its output is kept.
declare -A beside_jobs
beside() {
    (set -euo pipefail && "$1") >"$logs/$1.log" 2>&1 &
    beside_jobs[$1]=$!
}

# Waits for a function that was started so, shows what it printed, and fails where it did.
joined() {
    local status=0
    wait "${beside_jobs[$1]}" || status=$?
    cat "$logs/$1.log"
    return "$status"
}

# Runs an exported function for each line of the input, two at a time. That there is no line is a
# failure: nothing would have been tried.
two_at_a_time() {
    local lines
    lines=$(cat)
    [ -n "$lines" ] || {
        printf 'nothing is given to %s\n' "$1" >&2
        return 1
    }
    printf '%s\n' "$lines" | xargs -P 2 -I {} bash -c "SECONDS=0; $1 {} && echo {}, \$SECONDS s"
}

# Fails where one of these executed notebooks printed to standard error.
no_warnings() {
    local found=0
    grep -A 4 '"name": "stderr"' "$@" || found=$? # 1: no file has such a line; 2: it could not look
    [ "$found" -eq 1 ]
}

# Fails where the checks changed, or left behind, a file that git does not ignore.
nothing_changed() {
    local changes
    changes=$(git status --porcelain)
    [ -z "$changes" ] || {
        printf 'the checks changed files:\n%s\n' "$changes" >&2
        return 1
    }
}

# At the end of all, however it ended: what is still at work is stopped, and the folder removed. The
# exit status stays what it was, also where nothing is at work any more and `kill` has no argument.
clean_up() {
    kill $(jobs -p) 2>/dev/null || true
    rm -rf "$checkout"
}
