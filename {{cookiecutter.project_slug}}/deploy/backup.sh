#!/bin/sh
# Saves the database of the stack of compose.prod.yaml into a folder, and deletes what is there for longer than 14 days:
#   sh deploy/backup.sh FOLDER [DAYS]
# Each night by systemd/{{ cookiecutter.project_slug }}-backup.timer, or by cron. Copy the folder to another machine; docs/operate.md restores from it.
set -eu
umask 077
folder=$1
days=${2:-14}
file=$folder/$(date -u +%Y-%m-%dT%H-%M-%SZ).backup
mkdir -p "$folder"
{% if cookiecutter.database == 'postgres' %}
docker compose --file "$(dirname "$0")/../compose.prod.yaml" exec -T database \
    pg_dump --username=postgres --format=custom {{ cookiecutter.__database_name }} > "$file.part"
{% else %}
docker compose --file "$(dirname "$0")/../compose.prod.yaml" exec -T api python -m app.db.backup save > "$file.part"
{% endif %}
mv "$file.part" "$file" # not before it is whole; and where it failed, the old ones stay
find "$folder" -type f -name '*.backup*' -mtime "+$days" -delete
