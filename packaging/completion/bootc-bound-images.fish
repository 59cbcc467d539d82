# fish completion of bootc-bound-images

# The program knows its commands, options and values; it is asked in the protocol of click that is the
# same for all shells: the line, and the word to complete, answered by lines TYPE,VALUE<tab>HELP.
function __bootc_bound_images_complete
    set -l word (commandline -ct)
    set -l answers (env _BOOTC_BOUND_IMAGES_COMPLETE=fish_complete COMP_WORDS=(commandline -cp | string collect) \
        COMP_CWORD="$word" bootc-bound-images 2>/dev/null)
    # The answers are values alone, where fish wants the whole word --option=VALUE.
    set -l option (string match --regex -- '^--[^=]*=' $word)
    for answer in $answers
        set -l parts (string split --max 1 , -- $answer)
        switch $parts[1]
            case dir
                __fish_complete_directories "$word"
            case file
                __fish_complete_path "$word"
            case plain
                echo "$option$parts[2]"
        end
    end
end

complete --no-files --command bootc-bound-images --arguments '(__bootc_bound_images_complete)'
