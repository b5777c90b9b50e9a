#!/usr/bin/env python3
"""Health check of a container: ends well if an address answers within five seconds, and well."""

import sys
import urllib.request

# Whatever proxy the company's environment names, it is not asked for this machine's own address.
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5)
