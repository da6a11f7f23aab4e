#!/bin/sh
# Starts an image as in production and calls it as users do: health, REST and MCP. `make smoke` passes the image.
# shellcheck disable=SC2086 # a variable holds several arguments of `docker run`
set -eu

image=$1
admin=for-tests-only-9876543210-9876543210
hardening="--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
ports="--publish 127.0.0.1::{{ cookiecutter.api_port }} --publish 127.0.0.1::{{ cookiecutter.mcp_port }}"

containers=
finish() {
	status=$?
	for container in $containers; do
		[ $status = 0 ] || docker logs "$container"
		docker rm --force --volumes "$container" >/dev/null
	done
}
trap finish EXIT
trap 'exit 1' INT TERM

within_a_minute() { # takes a command that should succeed
	seconds=0
	until "$@" >/dev/null 2>&1; do
		[ $seconds -lt 60 ] || { echo "not within a minute: $*" >&2; exit 1; }
		sleep 1
		seconds=$((seconds + 1))
	done
}

call() { # takes a URL and further arguments of curl
	curl --silent --show-error --fail-with-body --max-time 10 "$@" && echo
}

{% if cookiecutter.database == 'postgres' %}
# Both containers share one network interface: the database's, which publishes the service's ports.
outer=$(docker run --detach $ports --env POSTGRES_PASSWORD=for-tests-only postgres:18)
containers=$outer
within_a_minute docker exec "$outer" pg_isready --host localhost
url=postgresql://postgres:for-tests-only@localhost/postgres
settings="--network container:$outer --env DATABASE_URL=$url --env API_KEY_SECRET=for-tests-only-0123456789-0123456789"
docker run --rm $hardening $settings "$image" python -m app.db.migrate
service=$(docker run --detach $hardening $settings --env ADMIN_API_KEY=$admin "$image")
containers="$service $outer"
{% else %}
service=$(docker run --detach $hardening $ports --env ADMIN_API_KEY=$admin "$image")
containers=$service
outer=$service
{% endif %}

rest=http://$(docker port "$outer" {{ cookiecutter.api_port }})
mcp=http://$(docker port "$outer" {{ cookiecutter.mcp_port }})/mcp
within_a_minute call "$rest/health"
call "$rest/health"
issued=$(call "$rest/admin/api-keys" --header "X-API-Key: $admin" --json '{"name": "smoke"}')
key=$(echo "$issued" | sed 's/.*"key":"\([^"]*\)".*/\1/')
call "$mcp" --header "Authorization: Bearer $key" --json '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}' | grep '"tools":'
