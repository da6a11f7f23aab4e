{# How the image installs a lock with pip: into a user site outside root's home, which no other user could read. #}
{% macro environment() %}
ENV PATH=/opt/user/bin:$PATH PYTHONUSERBASE=/opt/user
{%- endmacro %}
{% macro install(lock, complete=true, new=true) %}
RUN --mount=type=bind,source={{ lock }},target=/srv/{{ lock }} \
    --mount=type=cache,target=/.cache/pip \
    pip install --cache-dir=/.cache/pip --quiet --user --no-compile --no-warn-script-location \
        --require-hashes{{ '' if complete else ' --no-deps' }} --requirement {{ lock }}
{%- endmacro %}
