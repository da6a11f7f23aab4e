{# How the image installs a lock with uv: into a virtual environment. #}
{% macro environment() %}
ENV PATH=/opt/venv/bin:$PATH
{%- endmacro %}
{% macro install(lock, complete=true, new=true) %}
{% if new %}
RUN --mount=type=bind,source=requirements-dev.txt,target=/srv/requirements-dev.txt \
    --mount=type=cache,target=/.cache/pip \
    sed -n '/^uv==/,/# via/p' requirements-dev.txt > /tmp/uv.txt && \
    pip install --cache-dir=/.cache/pip --quiet --require-hashes --requirement /tmp/uv.txt
{% endif %}
RUN --mount=type=bind,source={{ lock }},target=/srv/{{ lock }} \
    --mount=type=cache,target=/.cache/uv \
{% if new %}
    uv venv --quiet /opt/venv && \
{% endif %}
    uv pip sync --cache-dir=/.cache/uv --quiet --require-hashes --link-mode=copy --python=/opt/venv {{ lock }} && \
    rm -f /opt/venv/.gitignore /opt/venv/.lock /opt/venv/CACHEDIR.TAG
{%- endmacro %}
