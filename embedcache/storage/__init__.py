"""The store on disk: its layout and files, written whole, mapped and read; and what else reads like a store."""
