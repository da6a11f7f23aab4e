#!/bin/sh
# Makes git run `make hooks` before each commit, even in a worktree or in a subdirectory of a larger repository.
set -eu

refuse() {
	echo "make git-hook: $1" >&2
	exit 1
}

top=$(git rev-parse --show-toplevel 2>/dev/null) || refuse 'this is not a git repository. Create one with: git init'
folder=$(git rev-parse --show-prefix | sed "s/'/'\\\\''/g")
common=$(cd "$(git rev-parse --git-common-dir)" && pwd)
hooks=$(git config --type=path core.hooksPath) || hooks=$common/hooks
case $hooks in
/*) ;;
*) hooks=$top/$hooks ;;
esac
command="make --silent -C './$folder' hooks FILES= PROJECT='$folder'"
hook="#!/bin/sh
# Git sets GIT_DIR in a worktree; from there make and pre-commit find it themselves.
unset GIT_DIR
[ ! -e './${folder}Makefile' ] || exec $command"

case $hooks/ in
"$top"/* | "$common"/*) ;;
*) refuse "core.hooksPath is $hooks, which other repositories may also use. Give this one its own hooks with
  git config core.hooksPath '$common/hooks'
or add this to $hooks/pre-commit:
  $command" ;;
esac
if [ -e "$hooks/pre-commit" ]; then
	grep -q -F -e "$command" -e 'make --silent hooks FILES=' "$hooks/pre-commit" || refuse "$hooks/pre-commit exists already. Remove it, or add this line to it:
  $command"
else
	mkdir -p "$hooks"
	printf '%s\n' "$hook" > "$hooks/pre-commit"
fi
chmod +x "$hooks/pre-commit"
