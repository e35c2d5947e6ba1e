"""`python -m runner.data fetch`: a data set from the web or from an archive, checked, unpacked and put in place.

fetch          all stages, one after another         runner/data/fetching/fetch.py
  find_origin    what NAME|URL|ARCHIVE means           origin.py, known_sets.py, web.py
  download       with resume and retries               download.py
  unpack         into a temporary folder               unpacking.py, members.py
  place          by one rename                         fetch.py, record.py
"""
