{# How the image installs a lock with pip: into a virtual environment. #}
{% macro environment() %}
ENV PATH=/opt/venv/bin:$PATH
{%- endmacro %}
{% macro install(lock) %}
RUN --mount=type=bind,source={{ lock }},target={{ lock }} \
    --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/venv && \
    pip --python=/opt/venv install --quiet --no-compile --require-hashes --requirement {{ lock }}
{%- endmacro %}
