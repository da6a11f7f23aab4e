#!/bin/sh
# Saves the database of the compose.prod.yaml stack to a directory, and deletes backups older than 14 days:
#   sh deploy/backup.sh FOLDER [DAYS]
# systemd/{{ cookiecutter.project_slug }}-backup.timer or cron runs it every night. Copy the directory to another machine. docs/operate.md explains how to restore.
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
mv "$file.part" "$file" # only once it is complete; if it failed, the old backups are kept
find "$folder" -type f -name '*.backup*' -mtime "+$days" -delete
