"""Later steps of stored studies: uploads to an object store, copies, exports, checks, retention, deletion."""
