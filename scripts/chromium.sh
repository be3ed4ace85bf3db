#!/bin/sh
# Ends with 0 if a Chromium is here, after installing one where that is allowed.
set -u

found() { command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1; }

found && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Chromium (apt-get) ..."
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >/dev/null 2>&1
    found && exit 0
fi
echo "Installing Chromium (playwright) ..."
timeout 300 .venv/bin/playwright install chromium >/dev/null 2>&1
