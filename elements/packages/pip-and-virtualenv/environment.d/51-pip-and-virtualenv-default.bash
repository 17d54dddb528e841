export DIB_INSTALLTYPE_pip_and_virtualenv=${DIB_INSTALLTYPE_pip_and_virtualenv:-package}
if [ "$DIB_INSTALLTYPE_pip_and_virtualenv" = source ]; then
    echo "error: DIB_INSTALLTYPE_pip_and_virtualenv is source, which is not supported: use package" >&2
    exit 1
fi
export DIB_PYTHON_PIP="python3 -m pip"
export DIB_PYTHON_VIRTUALENV="python3 -m venv"
