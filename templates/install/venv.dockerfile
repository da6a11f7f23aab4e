{# How the image installs a lock with pip: into a virtual environment. #}
{% macro environment() %}
ENV PATH=/opt/venv/bin:$PATH
{%- endmacro %}
{% macro install(lock, complete=true, new=true) %}
RUN --mount=type=bind,source={{ lock }},target=/srv/{{ lock }} \
    --mount=type=cache,target=/.cache/pip \
{% if new %}
    python -m venv --without-pip /opt/venv && \
{% endif %}
    pip --python=/opt/venv install --cache-dir=/.cache/pip --quiet --no-compile \
        --require-hashes{{ '' if complete else ' --no-deps' }} --requirement {{ lock }}
{%- endmacro %}
