"""Text <-> token ids, and the chat templates around conversations.

folder.py                    opens the text tokenizer of a model folder, whichever kind it holds
tokenizer.py                 TextTokenizer: what every text tokenizer does
sentencepiece_tokenizer.py   ours, which loses nothing, and other projects' sentencepiece models
settings.py                  the files beside a tokenizer, and what they say
chat_template.py             messages -> the text that a model continues
gguf.py                      the vocabulary of a GGUF -> a tokenizer.json
isolation/                   the processes in which other projects' tokenizers and templates are read
"""
