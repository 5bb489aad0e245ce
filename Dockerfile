# A finished run behind HTTP, without torch:
#
#     docker build -t vitrail-serve .
#     docker run --rm -p 8000:8000 -v "$PWD/run:/run:ro" --memory 2g vitrail-serve
FROM python:3.13-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY vitrail ./vitrail
# What answering needs, a test says; the rest of vitrail's dependencies train models.
RUN pip install --no-cache-dir numpy scipy pillow onnx onnxruntime pydantic typer rich filelock \
        jinja2 starlette uvicorn python-multipart \
    && pip install --no-cache-dir --no-deps . \
    && useradd --system serve

USER serve
EXPOSE 8000
HEALTHCHECK CMD python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz')"
ENTRYPOINT ["vitrail", "serve", "/run", "--host", "0.0.0.0"]
