"""What happens to stored studies later: uploads to an object store, copies, exports, checks, retention, deletion."""
