"""Records as files for a warehouse, and the figures that are counted from these files.

- `kinds`: the topics that can be exported; `columns`: the columns of their records, for Arrow.
- `formats`, `cells`: rows of Parquet and CSV.
- `export`: a run; `manifest`: what a folder holds, and where the next run begins.
- `streams`: Parquet that is sent while it is written.
- `transparency`: a year's figures, and the page that shows them.

## Design decisions

- **The manifest is the commit.** It names the files and the next offset of each partition, and one rename replaces it.
  Files that it does not name are removed by the next run. No record is in a folder twice, or missing, after a kill.
- **Records stay as they are.** A record that was written twice is there twice, with its partition and offset. Figures
  count each id once. A warehouse does the same, and sees what happened.
- **The day is that of the record's timestamp.** `--since` and `--until` search by the same timestamps.
- **An export leaves erased items out, whatever their records hold.** What was exported before an erasure stays in its
  files: no command finds the copies that others made of them.
"""
