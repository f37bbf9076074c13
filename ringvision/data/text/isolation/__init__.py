"""Other projects' tokenizers and chat templates, read in processes of their own: bounded in time and memory,
and without access to files.

    client.py             IsolatedTokenizer: a TextTokenizer whose ids come from such a process
    tokenizer_process.py  the process that reads a tokenizer hugging_face.py       tokenizer.json, read in
    that process (sentencepiece_tokenizer.py reads the other kind) template_process.py   the process that
    renders chat templates (chat_template.py asks it) line_process.py       starts, limits and ends such a
    process; requests and answers are lines of JSON
"""
